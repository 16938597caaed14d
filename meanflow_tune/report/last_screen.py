"""The end of a search: its summary on the screen, and as plain text in the study's folder."""

import io
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from meanflow_tune.files import OnlyShown, write_atomic
from meanflow_tune.plan.findings import Findings
from meanflow_tune.plan.plan import Plan
from meanflow_tune.report import summary
from meanflow_tune.report.answer import Answer
from meanflow_tune.report.safe_console import make_console
from meanflow_tune.urls import hide_password

SUMMARY = "summary.txt"
FILE_WIDTH = 100


def show_last_screen(
    console: Console,
    plan: Plan,
    findings: Findings,
    answered: Answer | None,
    files: Sequence[Path],
    command: str,
    notes: Sequence[str],
    shown: OnlyShown,
    page: str | None = None,
) -> None:
    """Print the summary and what to do next, and keep both as summary.txt: a terminal may be gone.

    answered: the answer in words, None where it could not be made; files: what was written; command:
    resumes the search; notes: lines between the two; page: the study's in MLflow.
    """
    kept = plan.request.folder / SUMMARY
    listed = [*files, kept]

    def show(on: Console) -> None:
        shown("show the summary", partial(summary.show, on, plan, findings, answered, shown), None)
        for note in notes:
            shown("show the summary", partial(on.print, note), None)
        next_step = answered.next_step if answered is not None else None
        places = partial(summary.show_places, on, plan.request, listed, command, next_step, page)
        shown("show where the results are", places, None)

    def write() -> bool:
        write_atomic(kept, hide_password(text.getvalue()))
        return True

    text = io.StringIO()
    to_file = make_console(text, FILE_WIDTH)
    to_file.print(f"written {time.strftime('%Y-%m-%d %H:%M:%S')}")
    show(to_file)
    if not shown(f"write {SUMMARY}", write, False):
        listed.remove(kept)
    show(console)
