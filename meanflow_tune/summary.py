"""The summary of a search in words and tables, its status from another terminal, and its plan."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from meanflow_tune.confirm import title
from meanflow_tune.findings import Findings
from meanflow_tune.plan import Plan
from meanflow_tune.records import INFEASIBLE, TrialRecord
from meanflow_tune.report_tables import (
    show_audit,
    show_final,
    show_front,
    show_search,
    show_winner,
)
from meanflow_tune.request import SearchRequest
from meanflow_tune.search.lease import LeaseState
from meanflow_tune.view import COLOURS

STATUS_NAME = "status.json"
STALE_SECONDS = 15.0


def show(console: Console, plan: Plan, findings: Findings) -> None:
    """The figures of the search and of the confirmation, with a verdict in words."""
    objectives = plan.objectives
    counts: dict[str, int] = {}
    for record in findings.records:
        counts[record.status] = counts.get(record.status, 0) + 1
    listed = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"
    console.print(f"\n[bold]{plan.request.study}[/bold]: {len(findings.records)} trials ({listed})")
    for part in objectives.parts:
        lower = "lower" if part.direction == "minimize" else "higher"
        console.print(f"objective {part}, {lower} is better")
    console.print()
    show_search(console, objectives, findings)
    for record in findings.records:
        if record.status in (*INFEASIBLE, "failed"):
            console.print(f"{title(record)} {record.status}: {record.reason}")
    if objectives.single is None:
        show_front(console, objectives, findings)
    show_winner(console, plan, findings)
    show_audit(console, plan, findings)
    if findings.rows:
        show_final(console, objectives, findings)
    elif findings.best is None:
        console.print("No trial but the baselines completed; raise --trials, or see the reasons.")
    else:
        console.print("Not confirmed on fresh seeds, so nothing is called better.")


def show_places(
    console: Console, request: SearchRequest, files: Sequence[Path], command: str
) -> None:
    """Where everything is, and the exact commands that go on from here."""
    uri = request.mlflow_uri
    console.print("\nWhere it is:")
    for path in files:
        console.print(f"  {path}", soft_wrap=True)
    console.print(f"  {request.folder / 'trials'}: checkpoints, samples and models", soft_wrap=True)
    console.print("\nWhat to do next:")
    view = f"mlflow ui --backend-store-uri {uri} --host 127.0.0.1 --port 5000"
    python = Path(sys.executable)
    lines = [
        (
            "compare in MLflow",
            f"open {uri}" if uri.startswith("http") else f"{python.with_name('mlflow')}{view[6:]}",
        ),
        ("resume or repeat this report", command),
        ("extend the search", _extended(request, command)),
        (
            "train the best alone",
            f"{python} scripts/train.py --config {request.folder / 'best.json'} "
            f"--output {request.storage / 'best'}",
        ),
    ]
    for what, line in lines:
        console.print(f"  {what}:\n    {line}", soft_wrap=True)


def _extended(request: SearchRequest, command: str) -> str:
    """The command with half as many trials again."""
    words = shlex.split(command)
    total = str(request.trials + max(4, request.trials // 2))
    if "--trials" in words:
        words[words.index("--trials") + 1] = total
    else:
        words += ["--trials", total]
    return shlex.join(words)


def show_status(
    console: Console,
    request: SearchRequest,
    records: Sequence[TrialRecord],
    lease: LeaseState | None,
) -> None:
    """The trials of a study, and where a driver is at work: who, and how far its trials are."""
    status = read_status(request)
    held = lease is not None and lease.pid is not None
    age = time.time() - status.get("time", 0.0)
    if held and age < STALE_SECONDS:
        assert lease is not None
        console.print(f"{request.study}: running, process {lease.pid} on {lease.host}")
    elif held:
        console.print(
            f"{request.study}: its driver has been silent for {age:.0f} s; was it killed?"
        )
    else:
        console.print(f"{request.study}: no driver at work")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("trial", "what", "state", "images", "objective", "reason"):
        table.add_column(name, overflow="fold")
    running = {row.get("name"): row for row in status.get("running") or []} if held else {}
    for record in records:
        row = running.get(f"trial {record.number}", {})
        images = row.get("images") or (record.reports[-1].images if record.reports else 0)
        of = row.get("of") or record.config["budget"]["images"]
        table.add_row(
            str(record.number),
            record.baseline or "proposed",
            row.get("phase", record.status),
            f"{images:,} / {of:,}",
            ", ".join(f"{value:.4f}" for value in record.values),
            record.reason,
            style=COLOURS.get(record.status, ""),
        )
    console.print(table)
    for name, row in running.items():
        if not str(name).startswith("trial "):
            phase = row.get("phase", "")
            console.print(f"{name} ({row['what']}): {phase}, {row.get('images', 0):,} images")


def read_status(request: SearchRequest) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((request.folder / STATUS_NAME).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return state
