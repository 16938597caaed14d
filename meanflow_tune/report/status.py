"""`--status`: what a study holds and, where a driver is running, its trials. Reads only."""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group

from meanflow_tune.plan.request import EXIT_OK, SearchRequest, UserError
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.outlook import outlook_lines, standing_lines
from meanflow_tune.report.text import COLOURS, figure, make_console, make_table
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.store.lease import read_lease
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.trials import read_records
from meanflow_tune.search.study.relocate import find_study

STATUS_NAME = "status.json"
STALE_SECONDS = 15.0


def show_status(request: SearchRequest) -> int:
    """Print what a study holds and, where a driver is at work, its running trials. Reads only."""
    folder = request.folder
    try:
        location = find_study(folder, request.study_storage)
        records = read_records(open_storage(location), request.study, folder)
    except StorageError as error:
        raise UserError(f"--status: {error}; name it by --study and --storage.") from None
    console, lease, status = make_console(), read_lease(folder), _read_status(request)
    held, age = lease is not None and lease.pid is not None, time.time() - status.get("time", 0.0)
    if lease is None or not held:
        words = "no driver at work"
    elif age < STALE_SECONDS:
        words = f"running, process {lease.pid} on {lease.host}"
    else:
        words = f"its driver has been silent for {age:.0f} s; was it killed?"
    console.print(f"{request.study}: {words}")
    _show_trials(console, records, status.get("running") or [] if held else [])
    for line in standing_lines(status):
        console.print(line)
    if held and age < STALE_SECONDS:
        show_outlook(console, status)
    return EXIT_OK


def show_outlook(console: Console, state: Mapping[str, Any]) -> None:
    """Print the outlook that a driver left in its status."""
    lines = outlook_lines(state, picture=True)
    if lines:
        console.print(Group(*lines))


def _show_trials(
    console: Console, records: Iterable[TrialRecord], rows: Iterable[Mapping[str, Any]]
) -> None:
    """The trials of a study; rows: how far those that run are, and runs of its confirmation."""
    running = {row.get("name"): row for row in rows}
    table = make_table("trial", "what", "state", "images", "objective", "reason", text=6)
    for record in records:
        row = running.get(f"trial {record.number}", {})
        images = row.get("images") or (record.reports[-1].images if record.reports else 0)
        of = row.get("of") or record.config["budget"]["images"]
        table.add_row(
            str(record.number),
            record.baseline or "proposed",
            row.get("phase", record.status),
            f"{images:,} / {of:,}",
            ", ".join(map(figure, record.values)),
            record.reason,
            style=COLOURS.get(record.status, ""),
        )
    console.print(table)
    for name, row in running.items():
        if not str(name).startswith("trial "):
            phase = row.get("phase", "")
            console.print(f"{name} ({row['what']}): {phase}, {row.get('images', 0):,} images")


def _read_status(request: SearchRequest) -> dict[str, Any]:
    """What the driver last wrote; empty where there is nothing or it cannot be read."""
    try:
        state = json.loads((request.folder / STATUS_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}
