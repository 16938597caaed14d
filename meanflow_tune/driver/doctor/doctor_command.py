"""The command `doctor`: what a search would need, checked without one."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from meanflow_tune.cluster.doctor.diagnosis import Finding, faults, gathered
from meanflow_tune.driver.cli import make_parser
from meanflow_tune.driver.doctor.examiner import Doctor, asked_search, diagnose
from meanflow_tune.driver.output import say, steady_output
from meanflow_tune.plan.request import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNUSABLE,
    STORAGE,
    SearchRequest,
    UserError,
)
from meanflow_tune.report.safe_console import AdaptiveTable, make_console

DESCRIPTION = """Check what a search needs, on this machine or on all hosts of a Ray cluster, and
say how to fix what is wrong: storage, free space, tracking server, database,
token, versions, clocks, GPUs, data set, and whether hosts meet. A search with
--cluster checks its hosts in the same way."""
EXAMPLES = """examples:
  python scripts/doctor.py                                            this machine, for the default search
  python scripts/doctor.py --cluster --storage /shared/runs           all hosts of the running cluster
  python scripts/doctor.py --cluster HEAD:6379 --storage /shared/runs --require-token
  python scripts/doctor.py --tracking-uri http://mlflow:5000          also the server that a search would use

exit status: 0 nothing is wrong (there may be warnings); 2 bad usage; 5 a fault that no search survives;
130 interrupted"""

MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "fault": ("FAULT", "bold red")}


def doctor_parser(prog: str = "doctor.py") -> argparse.ArgumentParser:
    """The command line of doctor.py."""
    p = make_parser(prog, DESCRIPTION, EXAMPLES)
    p.add_argument(
        "--cluster",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="the running Ray cluster: ADDRESS, else RAY_ADDRESS, else this machine's; without: this machine",
    )
    p.add_argument(
        "--require-token",
        action="store_true",
        help="a cluster that anyone on its network can use is a fault, not a warning",
    )
    p.add_argument(
        "--space",
        default=SearchRequest.model_fields["space"].default,
        metavar="NAME",
        help="the search whose data set is looked for (default: %(default)s)",
    )
    p.add_argument(
        "--storage",
        default=str(STORAGE),
        metavar="DIR",
        help="folder that all hosts share, or its URL (default: %(default)s)",
    )
    p.add_argument(
        "--study-storage",
        metavar="URL",
        help="an Optuna database URL (default: OPTUNA_STORAGE, else none)",
    )
    p.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="an MLflow server (default: MLFLOW_TRACKING_URI, else DIR/mlflow.db)",
    )
    p.add_argument(
        "--workers-per-trial",
        default="1",
        metavar="N",
        help="from 2 on, ranks of two hosts must meet (default: %(default)s)",
    )
    return p


def show(console: Console, findings: Iterable[Finding]) -> None:
    """A table: green what is good, yellow or red the rest with its remedy."""
    table = AdaptiveTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for heading in ("", "check", "where", "found"):
        table.add_column(heading, overflow="fold")
    for one in findings:
        mark, style = MARKS[one.level]
        found = Text(one.found)
        if one.remedy:
            found.append(f"\n{one.remedy}", style=style)
        table.add_row(Text(mark, style=style), one.check, one.where, found)
    console.print(table)


def main(argv: list[str] | None = None, prog: str = "doctor.py") -> int:
    """Parse, check, print; returns the exit status. prog: how the user called it."""
    arguments = doctor_parser(prog).parse_args(argv)
    console = make_console()
    try:
        with _progress() as say_running:
            doctor = Doctor(say_running)
            diagnose(asked_search(arguments), arguments.require_token, doctor)
    except UserError as error:
        say(f"{prog}: {error}")
        return error.status
    except KeyboardInterrupt:
        say(f"{prog}: interrupted; nothing was changed.")
        return EXIT_INTERRUPTED
    found = gathered(doctor.findings)
    show(console, found)
    wrong = len(faults(found))
    warnings = sum(f.level == "warning" for f in found)
    console.print(f"\n{_count(wrong, 'fault')}, {_count(warnings, 'warning')}.")
    return EXIT_UNUSABLE if wrong else EXIT_OK


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Says which check runs, in place, where stderr is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda check: None
        return
    with console.status("checking") as status:
        yield lambda check: status.update(f"checking: {check}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def run_process(argv: list[str] | None = None, prog: str = "doctor.py") -> NoReturn:
    """`main` as a process of its own."""
    steady_output()
    sys.exit(main(argv, prog))
