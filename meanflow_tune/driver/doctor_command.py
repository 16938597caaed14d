"""The command `doctor`: what a search would need, checked without one."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from meanflow_tune.cluster.doctor.diagnosis import Finding, faults, gathered
from meanflow_tune.cluster.errors import ClusterError
from meanflow_tune.driver.cli import make_parser, search_request, tune_parser
from meanflow_tune.driver.output import say, steady_output
from meanflow_tune.plan.request import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNUSABLE,
    STORAGE,
    SearchRequest,
    UserError,
    usable_folder,
)
from meanflow_tune.report.safe_console import AdaptiveTable, make_console
from meanflow_tune.search.errors import StorageError

DESCRIPTION = """Check what a search needs, on this machine or on all hosts of a Ray cluster, and say what to
mend: storage, free space, tracking server, database, token, versions, clocks, GPUs, data set, and whether
hosts meet. A search with --cluster checks its hosts in the same way."""
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
        type=Path,
        default=STORAGE,
        metavar="DIR",
        help="folder that all hosts share (default: %(default)s)",
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


class Doctor:
    """Collects findings; each check says on a terminal that it is running."""

    def __init__(self, say_running: Callable[[str], None]) -> None:
        self.findings: list[Finding] = []
        self._say = say_running

    @contextmanager
    def checking(self, check: str, good: str = "") -> Iterator[None]:
        """One check on the driver's side: an error that a user can fix is a fault, its end is `good`."""
        self._say(check)
        try:
            yield
        except (UserError, ClusterError, StorageError, ValueError) as error:
            self.findings.append(Finding(check, "", "fault", _sentence(str(error))))
        else:
            if good:
                self.findings.append(Finding(check, "", "ok", good))

    def add(self, findings: list[Finding]) -> None:
        self.findings += findings


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _request(arguments: argparse.Namespace) -> SearchRequest:
    """The search that would be started with these options. Raises UserError as it does."""
    words = ["--space", arguments.space, "--storage", str(arguments.storage)]
    words += ["--workers-per-trial", arguments.workers_per_trial]
    for flag in ("cluster", "study_storage", "tracking_uri"):
        value = getattr(arguments, flag)
        if value is not None:
            words.append(f"--{flag.replace('_', '-')}")
            words += [value] if value else []
    return search_request(tune_parser().parse_args(words))


def _diagnose(request: SearchRequest, require_token: bool, doctor: Doctor) -> None:
    from meanflow_tune.driver.tracking import check_tracking
    from meanflow_tune.plan.plan import make_plan

    example = None
    with doctor.checking("search space", f"{request.space} can be searched"):
        example = make_plan(request).examples[0].to_dict()
    folder = None
    with doctor.checking("storage"):
        folder = usable_folder(request.storage)
    if folder is None:
        return
    with doctor.checking("tracking server", "MLflow answers, or its file can be made"):
        if warning := check_tracking(request):
            raise UserError(warning)
    if request.study_storage is not None:
        from meanflow_tune.search.store.database import check_database

        with doctor.checking("database", "answers"):
            check_database(request.study_storage)
    if request.cluster is None:
        from meanflow_tune.cluster.doctor.examination import examine_here

        with doctor.checking("this machine"):
            doctor.add(examine_here(folder, example))
        return
    _diagnose_cluster(request, require_token, folder, example, doctor)


def _diagnose_cluster(
    request: SearchRequest,
    require_token: bool,
    folder: Path,
    example: dict[str, object] | None,
    doctor: Doctor,
) -> None:
    from meanflow_tune.cluster.session import join

    where = request.cluster or None
    with doctor.checking("cluster"), join(where, require_token=require_token) as session:
        from meanflow_tune.cluster.doctor.examination import examine_hosts

        doctor.add([Finding("token", "", "warning", note) for note in session.notes])
        if not session.notes:
            doctor.add([Finding("token", "", "ok", "the cluster asks for one")])
        with doctor.checking("hosts"):
            doctor.add(examine_hosts(folder, example))


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
            _diagnose(_request(arguments), arguments.require_token, doctor)
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
