"""The command lines of the scripts and of `meanflow-tune`. Imports nothing heavy: `--help` must be quick."""

import argparse
import os
import re
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from meanflow_tune.driver.output import OneLineParser
from meanflow_tune.plan.request import (
    SMOKE_SETTINGS,
    SMOKE_TRIALS,
    STORAGE,
    TEACHERS,
    Option,
    SearchRequest,
    UserError,
    refuse_repeated,
)
from meanflow_tune.remote.arguments import file_or_url, local_path, storage_path
from meanflow_tune.remote.location import UnusableRemote
from meanflow_tune.settings import first_fault

DESCRIPTION = """Search hyper-parameters of second-order MeanFlow training.
Without arguments: the main job, on the digits."""
EXAMPLES = """examples:
  python scripts/tune.py                              the default search; again: resume or report it
  python scripts/tune.py --smoke-test                 the same path in under two minutes
  python scripts/tune.py --status                     look at a search from another terminal
  python scripts/tune.py --trials 64                  extend it: --trials is the total
  python scripts/tune.py --study long --set budget.images=640000
  python scripts/tune.py --stop-trial 7               end a trial of a running or resting search
  python scripts/tune.py --enqueue best.json          run this configuration next, or these parameters
  python scripts/tune.py --dashboard                  look at it in the Optuna dashboard
  python scripts/tune.py --study old --delete-study   remove a study, after a question
  python scripts/tune.py --on-end 'mail -s "$MEANFLOW_TUNE_STATUS" me < "$MEANFLOW_TUNE_SUMMARY"'
  python scripts/tune.py --cluster                    on the running Ray cluster (or --cluster HOST:PORT)

exit status: 0 a trial completed; 2 bad usage or setting; 3 every trial failed; 4 the study is in use;
5 cluster or storage unusable; 130 interrupted, resume with the same command"""

# What the command does besides a search, or how much it prints; not part of a request.
MODES = {
    "--status": "show a running or finished study, and do nothing else",
    "--all": "with --status: all trials and slots, not only what a screen holds",
    "--smoke-test": "the same path with small budgets, in a study of its own",
    "--dry-run": "check everything, print the space, three configurations and a forecast, and stop before "
    "Ray starts",
    "--calibrate": "with --dry-run: time a short training first, and forecast from it",
    "--verbose": "show a traceback with an error, and the logs of Ray; with --dry-run: densities and "
    "schedules",
    "--quiet": "only the summary",
}
DELETION = {
    "--delete-study": "delete the study, its confirmation and its tracking in MLflow, after a question",
    "--yes": "with --delete-study: do not ask, for scripts",
    "--keep-mlflow": "with --delete-study: leave its experiment in MLflow",
}
DASHBOARD_PORT = 8080
NEED_DELETION = ("yes", "keep_mlflow")
SHORT = {"--verbose": "-v", "--quiet": "-q"}
FIELDS = SearchRequest.model_fields


def make_parser(prog: str, description: str | None, examples: str) -> argparse.ArgumentParser:
    """A command line that shows its examples as they are and refuses abbreviated options.

    The examples are those of the scripts, rewritten where `prog` is not one.
    """
    if not prog.endswith(".py"):
        examples = re.sub(r"(?:python )?scripts/(\w+)\.py", r"meanflow-tune \1", examples)
        examples = examples.replace("torchrun", "torchrun --no-python")
    return OneLineParser(
        prog=prog,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def tune_parser(prog: str = "tune.py") -> argparse.ArgumentParser:
    """The command line, made from the fields of `SearchRequest`; only what is given is parsed."""
    p = make_parser(prog, DESCRIPTION, EXAMPLES)
    for heading, names in groupby(FIELDS, lambda name: _option(FIELDS[name]).group):
        group = p.add_argument_group(heading)
        for name in names:
            add_option(group, name)
    show = p.add_argument_group("what to show")
    for flag, text in MODES.items():
        flags = [SHORT[flag], flag] if flag in SHORT else [flag]
        show.add_argument(*flags, action="store_true", help=text)
    handle = p.add_argument_group("handling a study, also from another terminal")
    handle.add_argument(
        "--stop-trial",
        type=whole(0),
        action="append",
        default=[],
        metavar="N",
        help="end a trial at its next safe point, as pruned; may be repeated",
    )
    handle.add_argument(
        "--enqueue",
        type=Path,
        metavar="FILE",
        help="a JSON file with a configuration (such as best.json) or parameters of the space to try next, "
        "or a list of them; each counts as one of --trials",
    )
    handle.add_argument(
        "--dashboard",
        type=whole(1),
        nargs="?",
        const=DASHBOARD_PORT,
        metavar="PORT",
        help=f"serve the Optuna dashboard of the study on this machine, for reading only "
        f"(port: {DASHBOARD_PORT})",
    )
    for flag, text in DELETION.items():
        handle.add_argument(flag, action="store_true", help=text)
    return p


def check_modes(arguments: argparse.Namespace) -> None:
    """Raise UserError where modes contradict each other, or one lacks what it belongs to."""
    modes = ("--dry-run", "--status", "--stop-trial", "--enqueue", "--dashboard", "--delete-study")
    given = [mode for mode in modes if getattr(arguments, mode[2:].replace("-", "_"))]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} cannot be given together; give one of them.")
    for flag, other in (
        ("calibrate", "--dry-run"),
        ("all", "--status"),
        *((f, "--delete-study") for f in NEED_DELETION),
    ):
        if getattr(arguments, flag) and other not in given:
            shown = f"--{flag.replace('_', '-')}"
            raise UserError(f"{shown} belongs to {other}: give both, or neither.")
    if given and getattr(arguments, "on_end", None):
        raise UserError(f"--on-end belongs to a search: leave it out with {given[0]}.")


def add_option(group: Any, name: str) -> None:
    """Add the option of a field to a parser or group; it appears among the arguments only if given."""
    field = FIELDS[name]
    option, kind = _option(field), _plain(field.annotation)
    given: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": _help(field)}
    if kind is bool:
        given["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
    elif get_origin(kind) is Literal:
        given["choices"] = list(get_args(kind))
    else:
        given["metavar"] = option.metavar
        if option.parse is not None:
            given["type"] = _argument(option.parse)
        elif kind in (int, float):
            given["type"] = kind
        if get_origin(kind) is tuple:
            given["action"] = "append"
        if option.bare is not None:
            given |= {"nargs": "?", "const": option.bare}
    group.add_argument(_flag(name), **given)


def _option(field: FieldInfo) -> Option:
    (option,) = (each for each in field.metadata if isinstance(each, Option))
    return option


def _flag(name: str) -> str:
    return _option(FIELDS[name]).flag or f"--{name.replace('_', '-')}"


def _plain(annotation: Any) -> Any:
    """The type of a field without None and without the constraints on its values."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        (kind,) = (each for each in get_args(annotation) if each is not NoneType)
        return _plain(kind)
    return annotation


def _help(field: FieldInfo) -> str:
    text = (field.description or "").replace("%", "%%")
    if field.is_required() or field.default in (None, ()) or field.default is False:
        return text
    return f"{text} (default: {'yes' if field.default is True else field.default})"


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` with its ValueError as the message of a usage error."""

    def argument(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return argument


def search_request(arguments: argparse.Namespace) -> SearchRequest:
    """The request of a parsed command line. Raises UserError with one line that names the option."""
    given: dict[str, Any] = {k: v for k, v in vars(arguments).items() if k in FIELDS}
    for name, field in FIELDS.items():
        variable = _option(field).environment
        if variable is not None and variable in os.environ:
            given.setdefault(name, os.environ[variable])
    stem = Path(given.get("space", FIELDS["space"].default)).stem
    if not stem or not stem.isprintable():
        raise UserError(
            f"--space {given['space']!r}: names no search space; give a module of search_spaces, or a .py"
            " file."
        )
    given.setdefault("study", f"{stem}-smoke" if arguments.smoke_test else stem)
    refuse_repeated(given.get("settings", ()))
    if arguments.smoke_test:
        given.setdefault("trials", SMOKE_TRIALS)
        given["settings"] = (*SMOKE_SETTINGS, *given.get("settings", ()))
    reads = arguments.status or arguments.dashboard is not None or arguments.dry_run
    try:
        given["storage"] = storage_path(given.get("storage", STORAGE), "read" if reads else "work")
    except UnusableRemote as error:
        raise UserError(f"--storage {error}.") from None
    return make_request(given)


def make_request(given: Mapping[str, Any]) -> SearchRequest:
    """A request with these fields. Raises UserError with one line that names the option."""
    try:
        return SearchRequest(**given)
    except ValidationError as error:
        name, _, fault = first_fault(error).partition(":")
        raise UserError(f"{_flag(name.partition('.')[0])}:{fault}") from None


TRAIN_DESCRIPTION = """Train one configuration, such as the best.json of a search, without Ray.
The same command resumes where it stopped."""
TRAIN_EXAMPLES = """examples:
  python scripts/train.py --config runs/second_order/best.json --output runs/best
  python scripts/train.py --config best.json --output long --set budget.images=1000000 --set seed=7
  torchrun --nproc-per-node 2 scripts/train.py --config best.json --output runs/best

exit status: 0 completed; 1 diverged or out of memory; 2 bad usage or setting; 5 unusable folder;
130 interrupted, resume with the same command"""


def train_parser(prog: str = "train.py") -> argparse.ArgumentParser:
    """The command line of train.py."""
    p = make_parser(prog, TRAIN_DESCRIPTION, TRAIN_EXAMPLES)
    p.add_argument(
        "--config",
        required=True,
        type=file_or_url,
        metavar="FILE",
        help="a TrialConfig as JSON, or its URL",
    )
    p.add_argument(
        "--output",
        required=True,
        type=local_path,
        metavar="DIR",
        help="folder for checkpoints, samples, metrics.json and the model",
    )
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="settings",
        help="change a setting, for example budget.images=1000000; may be repeated",
    )
    p.add_argument(
        "--cache",
        type=local_path,
        default=STORAGE / TEACHERS,
        metavar="DIR",
        help="cache of teachers (default: %(default)s)",
    )
    p.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1 ... (default: cuda where there is one, else cpu)",
    )
    p.add_argument(
        "--threads",
        type=whole(1),
        default=1,
        metavar="N",
        help="processor threads per rank; 1 gives the figures of a search to the bit, more speed up "
        "wide networks (default: %(default)s)",
    )
    return p


SAMPLE_DESCRIPTION = """Draw samples from a trained student, of its moving average.
SOURCE is a checkpoint (.pt), a trial's folder (runs/STUDY/trials/NUMBER), a study's best.json (its
leader), an exported model folder, or an MLflow URI (models:/... or runs:/RUN/NAME)."""
SAMPLE_EXAMPLES = """examples:
  python scripts/sample.py runs/second_order/best.json                    samples.png: NFE 1, 2 and 4
  python scripts/sample.py runs/second_order/trials/00013 --nfe 1 --n 16 --labels 3 --out threes.svg
  python scripts/sample.py runs/best --n 10000 --seed 1000 --out samples.npz
  python scripts/sample.py models:/m-... --tracking-uri http://127.0.0.1:5000
  python scripts/sample.py runs/scratch/best.json --guidance 2

Sample i starts from the latent of SEED + i, at every NFE, and is what the logged MLflow model predicts for
the columns `seed` = SEED + i and `label`.

exit status: 0 written; 1 out of memory; 2 bad usage, setting or source; 5 output not writable;
130 interrupted, nothing was written"""


def sample_parser(prog: str = "sample.py") -> argparse.ArgumentParser:
    """The command line of sample.py."""
    p = make_parser(prog, SAMPLE_DESCRIPTION, SAMPLE_EXAMPLES)
    p.add_argument("source", metavar="SOURCE", help="the student, as described above")

    def option(flag: str, metavar: str, text: str, **more: Any) -> None:
        p.add_argument(flag, metavar=metavar, help=text, **more)

    shown = " (default: %(default)s)"
    option(
        "--nfe",
        "LIST",
        "evaluations per sample, one or several" + shown.replace("%(default)s", "1,2,4"),
        type=numbers(1),
        default=[1, 2, 4],
    )
    option("--n", "N", "number of samples" + shown, type=whole(1), default=64)
    option(
        "--labels",
        "LIST",
        "classes, repeated in turn, such as 0,1,2 (default: all classes in turn)",
        type=numbers(0),
    )
    option("--seed", "N", "of the first sample; the next have N + 1, ..." + shown, type=whole(0))
    p.set_defaults(seed=0)
    option(
        "--guidance",
        "W",
        "classifier-free guidance, at twice the cost, for a student that was trained with label_dropout "
        "and without guidance (default: none)",
        type=float,
    )
    option(
        "--out",
        "FILE",
        "a grid with one column per NFE (.png, .svg), or arrays seeds, labels, latents, samples@NFE "
        "(.npz)" + shown,
        type=local_path,
        default=Path("samples.png"),
    )
    option("--device", "NAME", "cpu, cuda ... (default: cuda where there is one, else cpu)")
    p.set_defaults(device="auto")
    option(
        "--tracking-uri",
        "URI",
        "MLflow's server or database (default: MLFLOW_TRACKING_URI, else runs/mlflow.db)",
    )
    return p


def numbers(least: int) -> Callable[[str], list[int]]:
    """A converter of whole numbers from `least` on, separated by commas."""
    return lambda text: [whole(least)(part) for part in text.split(",")]


def whole(least: int) -> Callable[[str], int]:
    """A converter of whole numbers from `least` on."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {least}, but is {text!r}"
            )
        return int(text)

    return convert
