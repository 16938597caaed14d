"""The real command lines of the programs that pages name, to parse commands with but not run them."""

import argparse
import contextlib
import io
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import pytest

from meanflow_tune.driver.cli import sample_parser, search_request, train_parser, tune_parser
from meanflow_tune.driver.console import COMMANDS, console_parser
from meanflow_tune.driver.doctor.doctor_command import doctor_parser
from meanflow_tune.driver.report_command import report_parser
from scripts.benchmark import parser as benchmark_parser
from scripts.gpu_check import parser as gpu_check_parser
from tests.cluster.chaos import parser as chaos_parser
from tests.support.paths import ROOT

Words = Sequence[str]
PARSERS: dict[str, argparse.ArgumentParser] = {
    "scripts/tune.py": tune_parser(),
    "scripts/train.py": train_parser(),
    "scripts/sample.py": sample_parser(),
    "scripts/report.py": report_parser(),
    "scripts/doctor.py": doctor_parser(),
    "scripts/benchmark.py": benchmark_parser(),
    "scripts/gpu_check.py": gpu_check_parser(),
}
# Their arguments are files and servers, of which only the reader's machine knows.
SYSTEM = ("cd", "cp", "curl", "export", "ls", "mkdir", "pip", "source", "touch", "venv")
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = frozenset(re.findall(r"^([\w-]+):", MAKEFILE, flags=re.MULTILINE))


class NotUnderstood(AssertionError):
    """A program refuses a command, or nobody here knows the program."""


def check(words: Words) -> None:
    """Raise NotUnderstood unless the program that a command names takes its arguments."""
    program, *rest = words
    if program in SYSTEM:
        return
    if program not in PROGRAMS:
        known = ", ".join(sorted([*PROGRAMS, *SYSTEM]))
        raise NotUnderstood(f"nothing parses {program!r}; known: {known}")
    PROGRAMS[program](rest)


def parse(parser: argparse.ArgumentParser, words: Words) -> argparse.Namespace | None:
    """The arguments; None after --help or --version. Raises NotUnderstood with the message of argparse."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return parser.parse_args(words)
    except SystemExit as end:
        if end.code:
            raise NotUnderstood(said.getvalue().splitlines()[-1]) from None
        return None


def _python(words: Words) -> None:
    first, *rest = words
    if first == "-c":
        compile(rest[0], "-c", "exec")
    elif first == "-m":
        check(rest)
    elif first in PARSERS:
        _script(first, rest)
    else:
        raise NotUnderstood(f"there is no parser for {first!r}; add it to PARSERS")


def _script(script: str, words: Words) -> None:
    given = parse(PARSERS[script], words)
    if script == "scripts/tune.py" and given is not None:
        search_request(given)  # raises UserError for values that no search takes


def _installed(words: Words) -> None:
    name, *rest = words
    if name in COMMANDS:
        _script(f"scripts/{name}.py", rest)
    else:
        parse(console_parser(), words)


def _make(words: Words) -> None:
    for target in (word for word in words if "=" not in word):
        if target not in TARGETS:
            raise NotUnderstood(f"the Makefile has no target {target!r}: {sorted(TARGETS)}")
    for name, value in (word.split("=", 1) for word in words if "=" in word):
        if not re.search(rf"^{name} \?=", MAKEFILE, flags=re.MULTILINE):
            raise NotUnderstood(f"the Makefile has no variable {name!r}")
        if name == "ARGS":
            script = "gpu_check" if "gpu" in words else "tune"
            check(["python", f"scripts/{script}.py", *value.split()])


def _torchrun(words: Words) -> None:
    from torch.distributed.run import get_args_parser

    given = parse(get_args_parser(), words)
    if given is not None:
        _script(given.training_script, given.training_script_args)


def _click(module: str, name: str) -> Callable[[Words], None]:
    """Of a program made with click: the arguments of its innermost command."""

    def understand(words: Words) -> None:
        import click

        command: Any = getattr(import_module(module), name)
        context, rest = None, list(words)
        try:
            while True:
                context = command.make_context(command.name, rest, parent=context)
                if not isinstance(command, click.Group):
                    return
                rest = [*getattr(context, "_protected_args", ()), *context.args]
                _, command, rest = command.resolve_command(context, rest)
        except click.exceptions.Exit:
            return  # after --help
        except click.ClickException as error:
            raise NotUnderstood(error.format_message()) from None

    return understand


def _optuna_dashboard(words: Words) -> None:
    """Its parser exists inside its main function only."""
    from optuna_dashboard import _cli

    class Parsed(Exception):
        pass

    def only_parse(parser: argparse.ArgumentParser) -> None:
        parse_known(parser, words)
        raise Parsed

    def parse_known(parser: argparse.ArgumentParser, given: Words) -> None:
        _, unknown = parser.parse_known_args(given)
        if unknown:
            raise NotUnderstood(f"optuna-dashboard does not know {' '.join(unknown)}")

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Parsed):
        patch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
        _cli.main()


def _supervisor(words: Words) -> None:
    """It takes environment variables, and no arguments."""
    if words:
        raise NotUnderstood(f"deploy/ray-worker-supervisor takes no arguments, but got {words}")


def _chaos(words: Words) -> None:
    parse(chaos_parser(), words)


def _pytest(words: Words) -> None:
    """Names of files and tests; test_commands.py collects the tests of each command."""
    for word in words:
        path, _, _ = word.partition("::")
        if path.startswith("tests/") and not (ROOT / path).exists():
            raise NotUnderstood(f"there is no {path}")


PROGRAMS: dict[str, Callable[[Words], None]] = {
    "python": _python,
    "meanflow-tune": _installed,
    "make": _make,
    "mlflow": _click("mlflow.cli", "cli"),
    "optuna-dashboard": _optuna_dashboard,
    "deploy/ray-worker-supervisor": _supervisor,
    "pytest": _pytest,
    "ray": _click("ray.scripts.scripts", "cli"),
    "tests.cluster.chaos": _chaos,
    "torchrun": _torchrun,
}
