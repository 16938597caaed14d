"""The summary of a search: its figures, its conclusion, where its files are, and what to do next."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from meanflow_tune.files import OnlyShown
from meanflow_tune.plan.confirm import title
from meanflow_tune.plan.findings import Findings
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import INFEASIBLE
from meanflow_tune.remote.location import shown_storage, storage_of
from meanflow_tune.report.answer import Answer, answer
from meanflow_tune.report.answer_tables import show_answer
from meanflow_tune.report.commands import (
    changed,
    extended,
    mlflow_command,
    train_command,
    with_remedy,
)
from meanflow_tune.report.tables import (
    show_audit,
    show_final,
    show_front,
    show_leader,
    show_quality,
    show_search,
)
from meanflow_tune.report.text import better, headed
from meanflow_tune.search.analysis.plausibility import explain
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.urls import hide_password

FEW_ROWS = 2  # of the final table, which the table of the answer shows as well
LOCAL_SERVER = "http://127.0.0.1:5000"


def show(
    console: Console,
    plan: Plan,
    findings: Findings,
    answered: Answer | None = None,
    shown: OnlyShown | None = None,
) -> None:
    """The figures of the search and of the confirmation, with the answer in words at the end.

    answered: computed where it is not given. A part that cannot be shown takes no other away.
    """
    objectives = plan.objectives

    def show_part(name: str, print_it: Callable[..., None], *given: Any) -> None:
        (shown or OnlyShown())(f"show {name}", partial(print_it, console, *given), None)

    counts = Counter(record.status for record in findings.records)
    listed = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"
    console.print()
    console.print(headed(plan.request.study, f": {len(findings.records)} trials ({listed})"))
    for part in objectives.parts:
        console.print(f"objective {better(part)}")
    console.print()
    show_part("the figures of the search", show_search, objectives, findings)
    for record in findings.records:
        if record.status in (*INFEASIBLE, "failed"):
            console.print(f"{title(record)} {record.status}: {record.reason}")
    if objectives.single is None:
        show_part("the front", show_front, objectives, findings)
    show_part("the leader", show_leader, plan, findings)
    show_part("the warnings", show_warnings, objectives, findings)
    show_part("the teacher's quality", show_quality, objectives, findings)
    show_part("the audit of the rungs", show_audit, plan, findings)
    if findings.best_proposed is None:
        console.print(_without_proposal(findings))
    if len(findings.rows) > FEW_ROWS:
        show_part("the confirmation", show_final, objectives, findings)
    elif not findings.rows and len(findings.order) > 1:
        console.print("Not confirmed on fresh seeds, so nothing is called better.")
    if answered is None:
        answered = answer(plan, findings, findings.insight)
    show_part("the answer", show_answer, answered, findings)


def _without_proposal(findings: Findings) -> str:
    """Why no proposed trial is in the figures."""
    if not findings.order:
        return "No trial completed; the reasons are above."
    if any(record.baseline is None for record in findings.records):
        return "No trial besides the baselines completed; raise --trials, or see the reasons."
    return "Only baselines were run; a larger --trials proposes others."


def show_warnings(console: Console, objectives: Objectives, findings: Findings) -> None:
    """Completed trials whose values show that their training failed."""
    leader = findings.leader.number if findings.leader is not None else None
    for line in explain(findings.implausible, leader, objectives.single is None):
        console.print(line, style="yellow")


def show_places(
    console: Console,
    request: SearchRequest,
    files: Sequence[Path],
    command: str,
    next_step: tuple[str, str] | None = None,
    page: str | None = None,
) -> None:
    """Where the files are, and the exact commands to continue with.

    next_step: of the answer; page: the study's in MLflow.
    """
    uri = hide_password(request.mlflow_uri)
    console.print("\nResults:")
    for path in files:
        console.print(f"  {path}", soft_wrap=True)
    console.print(f"  {request.folder / 'trials'}: checkpoints, samples and models", soft_wrap=True)
    if storage_of(request.storage) is not None:
        where = f"the folder {request.study} of {shown_storage(request.storage)}"
        console.print(f"  all of it is in {where}; these are this host's copies", soft_wrap=True)
    console.print("\nNext steps:")
    lines = [
        ("compare in MLflow", _in_mlflow(uri, page)),
        ("resume or repeat this report", command),
        ("extend the search", extended(command, request.trials + max(4, request.trials // 2))),
    ]
    if next_step is not None:
        option, what = next_step
        lines.insert(0, (what, changed(command, *option.split())))
    best = request.folder / "best.json"
    if best in files:
        output = request.storage / f"{request.study}-best"
        train = train_command(command, "--config", best, "--output", output)
        lines.append(("train the leader's configuration alone", train))
    for what, line in lines:
        console.print(f"  {what}:\n    {line}", soft_wrap=True)
    if (remedy := with_remedy(command)) != command:
        console.print(remedy.removeprefix(command).strip(), soft_wrap=True)


def _in_mlflow(uri: str, page: str | None) -> str:
    """How to open the study there: sorted by the objective, with the columns and charts of a search."""
    if uri.startswith("http"):
        return f"open {page or uri}"
    return mlflow_command(uri) + (f"\n    then open {page}" if page else "")
