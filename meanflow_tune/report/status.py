"""`--status`: what a study holds and, where a driver is running, its trials. Reads only."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table

from meanflow_tune.plan.request import EXIT_OK, SearchRequest, UserError
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.live import outlook_lines
from meanflow_tune.report.text import COLOURS, make_console
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.store.lease import LeaseState, read_lease
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.trials import read_records
from meanflow_tune.search.study.relocate import find_study

STATUS_NAME = "status.json"
STALE_SECONDS = 15.0


def show_status(request: SearchRequest) -> int:
    """Print what a study holds and, where a driver is at work, its running trials. Reads only."""
    folder = request.folder
    try:
        journal = find_study(folder, request.study_storage)
        records = read_records(open_storage(journal), request.study, folder)
    except StorageError as error:
        raise UserError(f"--status: {error}; name it by --study and --storage.") from None
    console, lease = make_console(), read_lease(folder)
    _show_trials(console, request, records, lease)
    status = read_status(request)
    silent = time.time() - status.get("time", 0.0)
    if lease is not None and lease.pid is not None and silent < STALE_SECONDS:
        show_outlook(console, status)
    return EXIT_OK


def show_outlook(console: Console, state: Mapping[str, Any]) -> None:
    """Print the outlook that a driver left in its status."""
    lines = outlook_lines(state, picture=True)
    if lines:
        console.print(Group(*lines))


def _show_trials(
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
