"""The command lines of the scripts. Imports nothing heavy: --help must be quick."""

import argparse
import os
import re
from pathlib import Path

DESCRIPTION = """Search the settings of second-order MeanFlow training.
Without arguments: the main job, on the digits."""
EXAMPLES = """examples:
  python scripts/tune.py                              the default search; again: go on, or report it
  python scripts/tune.py --smoke-test                 the same path in under two minutes
  python scripts/tune.py --status                     look at a search from another terminal
  python scripts/tune.py --trials 40                  extend it: --trials is the total
  python scripts/tune.py --study long --set budget.images=640000
  python scripts/tune.py --cluster                    on the running Ray cluster (or --cluster HOST:PORT)

exit status: 0 a trial completed; 2 bad usage or setting; 3 every trial failed; 4 the study is in use;
5 cluster or storage unusable; 130 interrupted, go on with the same command"""


def make_parser(prog: str, description: str | None, examples: str) -> argparse.ArgumentParser:
    """A command line that shows its examples as they are and refuses abbreviated options."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def tune_parser() -> argparse.ArgumentParser:
    """The command line; `tests/test_command_line.py` freezes it."""
    p = make_parser("tune.py", DESCRIPTION, EXAMPLES)
    what = p.add_argument_group("what to search")
    what.add_argument(
        "--space",
        default="second_order",
        metavar="NAME",
        help="module of search_spaces, or a .py file (default: %(default)s)",
    )
    what.add_argument(
        "--study", metavar="NAME", help="name of the study (default: the space's name)"
    )
    what.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="trials in total, baselines included (default: 16; smoke test: 7)",
    )
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="settings",
        help="fix a setting of every trial, for example budget.images=64000; may be repeated",
    )
    what.add_argument(
        "--time-budget",
        type=duration,
        metavar="TIME",
        help="stop at a safe point after so much time over all runs of the command: 90s, 45m, 2h, 1d12h",
    )
    what.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the search (default: %(default)s)"
    )
    _search_options(p.add_argument_group("how to search"))
    _noise_options(p.add_argument_group("how to tell luck from skill"))
    where = p.add_argument_group("where to run it")
    where.add_argument(
        "--cluster",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="join a running Ray cluster: ADDRESS, else RAY_ADDRESS, else this machine's",
    )
    where.add_argument(
        "--workers-per-trial",
        type=int,
        default=1,
        metavar="N",
        help="data-parallel ranks of a trial (default: %(default)s)",
    )
    where.add_argument(
        "--max-concurrent",
        type=int,
        metavar="K",
        help="trials at once (default: what the processors allow)",
    )
    where.add_argument(
        "--cpus-per-worker",
        type=float,
        default=1.0,
        metavar="F",
        help="processors of a rank (default: %(default)s)",
    )
    where.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="F",
        help="GPUs of a rank (default: 1 where the cluster has enough, else 0)",
    )
    keep = p.add_argument_group("where to keep it")
    keep.add_argument(
        "--storage",
        default="runs",
        metavar="DIR",
        help="folder of studies, teachers and MLflow, seen by all hosts (default: %(default)s)",
    )
    keep.add_argument(
        "--study-storage",
        default=os.environ.get("OPTUNA_STORAGE"),
        metavar="URL",
        help="an Optuna database URL (default: OPTUNA_STORAGE, else a journal file in the study's folder)",
    )
    keep.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        metavar="URI",
        help="an MLflow server (default: MLFLOW_TRACKING_URI, else DIR/mlflow.db)",
    )
    keep.add_argument(
        "--resume",
        default="auto",
        choices=["auto", "must", "fresh"],
        help="auto: go on where there is something; must: refuse to start anew; "
        "fresh: put the old study aside (default: %(default)s)",
    )
    keep.add_argument(
        "--accept-changes",
        action="store_true",
        help="go on although code, space, data or versions changed since the study began; recorded",
    )
    keep.add_argument(
        "--import-study",
        metavar="STUDY",
        help="begin with the trials of another study of DIR (or of FOLDER/STUDY), as far as they fit",
    )
    show = p.add_argument_group("what to show")
    show.add_argument(
        "--status",
        action="store_true",
        help="show a running or finished study, and do nothing else",
    )
    show.add_argument(
        "--smoke-test",
        action="store_true",
        help="the same path with small budgets, in a study of its own",
    )
    show.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, print the space, three configurations and a forecast, and stop before Ray "
        "starts",
    )
    show.add_argument(
        "--calibrate",
        action="store_true",
        help="with --dry-run: time a short training first, and forecast from it",
    )
    show.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="show a traceback with an error, and the logs of Ray; with --dry-run: densities and schedules",
    )
    show.add_argument("-q", "--quiet", action="store_true", help="only the summary")
    return p


def _search_options(how: argparse._ArgumentGroup) -> None:
    how.add_argument(
        "--sampler",
        default="tpe",
        choices=["tpe", "gp", "cmaes", "nsgaii", "qmc", "random"],
        help="Optuna's sampler (default: %(default)s)",
    )
    how.add_argument(
        "--startup-trials",
        type=int,
        default=8,
        metavar="N",
        help="finished trials before the sampler models anything (default: %(default)s)",
    )
    how.add_argument(
        "--objectives",
        metavar="LIST",
        help="several objectives instead of the space's one, such as teacher_gap@1,teacher_gap@4,cost",
    )
    how.add_argument(
        "--scheduler",
        default="asha",
        choices=["asha", "median", "none"],
        help="stop weak trials at rungs: successive halving, the median rule, or none "
        "(default: %(default)s)",
    )
    how.add_argument(
        "--reduction",
        type=float,
        default=4.0,
        metavar="F",
        help="asha: at a rung the best 1/F of the trials go on (default: %(default)s)",
    )
    how.add_argument(
        "--grace",
        type=int,
        default=0,
        metavar="IMAGES",
        help="no trial is stopped before so many images (default: %(default)s)",
    )
    how.add_argument(
        "--brackets",
        type=int,
        default=1,
        metavar="N",
        help="asha: trials take turns in N brackets, the k-th of which spares the first k rungs "
        "(default: %(default)s)",
    )
    how.add_argument(
        "--promotion",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="asha: a stopped trial is paused, and goes on when it is among the best after all",
    )
    how.add_argument(
        "--protect",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of proposed trials that are never stopped, to audit the rungs "
        "(default: %(default)s)",
    )
    how.add_argument(
        "--max-failures",
        type=int,
        default=3,
        metavar="N",
        help="stop the search after N trials in a row failed by an error that a retry cannot cure "
        "(default: %(default)s)",
    )


def _noise_options(noise: argparse._ArgumentGroup) -> None:
    noise.add_argument(
        "--repeats",
        type=int,
        default=0,
        metavar="N",
        help="further seeds, the same for all, on which a survivor of the last rung is trained before "
        "it counts; the leader is then decided by paired differences (default: %(default)s)",
    )
    noise.add_argument(
        "--confirm",
        type=int,
        default=1,
        metavar="K",
        help="retrain the best on fresh seeds and latents. 1: the best trial and the best reference "
        "baseline; from 2 on: the K best trials and every family of baselines, those with a single "
        "learning rate at their best of three; 0: none (default: %(default)s)",
    )
    noise.add_argument(
        "--confirm-seeds",
        type=int,
        default=2,
        metavar="N",
        help="how many fresh seeds; 6 are needed for intervals that hold in 95%% of the cases "
        "(default: %(default)s)",
    )


def duration(text: str) -> float:
    """Seconds of `90s`, `45m`, `2h` or `1d12h`; an argparse type."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text:
        raise argparse.ArgumentTypeError(
            f"must be a time such as 90s, 45m, 2h or 1d12h, but is {text!r}"
        )
    seconds = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    return sum(float(number) * seconds[unit] for number, unit in parts)


TRAIN_DESCRIPTION = """Train one configuration, such as the best.json of a search, without Ray.
The same command resumes where it stopped."""
TRAIN_EXAMPLES = """examples:
  python scripts/train.py --config runs/second_order/best.json --output runs/best
  python scripts/train.py --config best.json --output long --set budget.images=1000000 --set seed=7
  torchrun --nproc-per-node 2 scripts/train.py --config best.json --output runs/best

exit status: 0 completed; 1 diverged or out of memory; 2 bad usage or setting; 5 unusable folder;
130 interrupted, go on with the same command"""


def train_parser() -> argparse.ArgumentParser:
    """The command line; `tests/test_command_line.py` freezes it."""
    p = make_parser("train.py", TRAIN_DESCRIPTION, TRAIN_EXAMPLES)
    p.add_argument(
        "--config", required=True, type=Path, metavar="FILE", help="a TrialConfig as JSON"
    )
    p.add_argument(
        "--output",
        required=True,
        type=Path,
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
        type=Path,
        default=Path("runs/teachers"),
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
        type=_count,
        default=1,
        metavar="N",
        help="processor threads of a rank; 1 gives the figures of a search to the bit, more help "
        "wide networks (default: %(default)s)",
    )
    return p


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but is {text!r}")
    return int(text)
