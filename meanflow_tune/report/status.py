"""`--status`: what a study holds and, where a driver is running, its trials. Reads only."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.text import Text

from meanflow_tune.files import OnlyShown
from meanflow_tune.plan.request import EXIT_OK, SearchRequest, UserError
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.characters import one_line
from meanflow_tune.report.outlook import best_so_far, outlook_lines, standing_lines
from meanflow_tune.report.running import running_lines
from meanflow_tune.report.safe_console import make_console
from meanflow_tune.report.text import COLOURS, counted, figure, headed, make_table
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.store.lease import has_died, read_lease
from meanflow_tune.search.store.manifest import Manifest
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.trials import read_records, study_directions
from meanflow_tune.search.study.inbox import Inbox
from meanflow_tune.search.study.relocate import find_study

STATUS_NAME = "status.json"
STALE_SECONDS = 15.0
REFUSED_SHOWN = 3
NAMED = 8  # paused trials that are named


def show_status(request: SearchRequest) -> int:
    """Print what a study holds and, where a driver is at work, its running trials. Reads only."""
    folder = request.folder
    try:
        Manifest.read(folder)  # refuses one of a newer version by name
        location = find_study(folder, request.study_storage)
        storage = open_storage(location)
        records = read_records(storage, request.study, folder)
    except StorageError as error:
        raise UserError(f"--status: {error}; name it by --study and --storage.") from None
    console, lease, status = make_console(), read_lease(folder), _read_status(request)
    held, age = lease is not None and lease.pid is not None, time.time() - status["time"]
    killed = lease is not None and held and has_died(lease)
    held = held and not killed
    if killed:
        words = "no driver at work; the last one was killed, and the same command resumes it"
    elif lease is None or not held:
        words = "no driver at work"
    elif age < STALE_SECONDS:
        words = f"running, process {lease.pid} on {lease.host}"
    else:
        words = f"its driver has been silent for {age:.0f} s; was it killed?"
    if not status["best"]:  # never written, or unreadable
        ways = study_directions(storage, request.study)
        status["best"] = best_so_far(records, ways[0]) if len(ways) == 1 else ""
    rows = status["running"] if held else []
    shown = OnlyShown(lambda text: console.print(text, style="yellow"))
    console.print(headed(request.study, f": {words}"))
    parts: dict[str, Callable[[], None]] = {
        "show the trials": partial(_show_trials, console, records, rows),
        "show the counts": partial(_show_counts, console, records, status["total"]),
        "show the best trials": lambda: _print_lines(console, standing_lines(status)),
        "show the running trials": lambda: _print_lines(
            console, running_lines(rows, console.width)
        ),
        "show what MLflow refused": partial(
            _print_lines, console, list(map(Text, status["tracking"]))
        ),
        "show the requests": partial(_show_requests, console, Inbox(folder)),
        "show what waits": partial(_show_waiting, console, records, status["total"], held),
    }
    if held and age < STALE_SECONDS:
        parts["show the outlook"] = partial(show_outlook, console, status)
    for purpose, show in parts.items():
        shown(purpose, show, None)
    return EXIT_OK


def show_outlook(console: Console, state: Mapping[str, Any]) -> None:
    """Print the outlook that a driver left in its status."""
    _print_lines(console, outlook_lines(state, picture=True))


def _print_lines(console: Console, lines: Sequence[Text]) -> None:
    for line in lines:
        console.print(line)


def _show_trials(
    console: Console, records: Sequence[TrialRecord], rows: Sequence[Mapping[str, Any]]
) -> None:
    """The trials of a study, then why some of them ended; rows: how far those that run are."""
    running = {row.get("name"): row for row in rows}
    table = make_table("trial", "what", "state", "images", "objective", text=3)
    for record in records:
        row = running.get(f"trial {record.number}", {})
        images = row.get("images") or (record.reports[-1].images if record.reports else 0)
        of = row.get("of") or record.config.get("budget", {}).get("images", 0)
        table.add_row(
            str(record.number),
            one_line(record.what),
            str(row.get("phase") or record.status),
            f"{images:,} / {of:,}",
            ", ".join(map(figure, record.values)),
            style=COLOURS.get(record.status, ""),
        )
    console.print(table)
    for record in records:
        if record.reason and record.status not in ("completed", "pruned"):
            style = COLOURS.get(record.status, "")
            reason = one_line(record.reason)
            console.print(f"trial {record.number} {record.status}: {reason}", style=style)


def _show_counts(console: Console, records: Sequence[TrialRecord], total: int) -> None:
    counts = Counter(record.status for record in records)
    listed = ", ".join(f"{count} {status}" for status, count in counts.items())
    of = f" of {total:,}" if total > len(records) else ""
    console.print(f"{counted(len(records), 'trial')}{of}{': ' if listed else ''}{listed}")


def _show_requests(console: Console, inbox: Inbox) -> None:
    """What other terminals asked for and the driver has not applied, and what it refused last."""
    for request in inbox.waiting():
        fault = f" ({request.fault})" if request.fault else ""
        console.print(f"asked for: {one_line(str(request))}{one_line(fault)}", markup=False)
    for request in inbox.refused()[-REFUSED_SHOWN:]:
        why = request.reason or request.fault
        console.print(f"refused: {one_line(f'{request} ({why})')}", style="yellow", markup=False)


def _show_waiting(console: Console, records: Sequence[TrialRecord], total: int, held: bool) -> None:
    """Paused trials, trials without a driver, and those that are not proposed yet."""
    parts = []
    paused = [str(record.number) for record in records if record.status == "paused"]
    if paused:
        more = f" and {len(paused) - NAMED} more" if len(paused) > NAMED else ""
        parts.append(f"{', '.join(paused[:NAMED])}{more} for a promotion")
    left = [str(record.number) for record in records if record.status == "running"]
    if left and not held:
        parts.append(f"{', '.join(left[:NAMED])} for the next run of the command")
    if total > len(records):
        parts.append(f"{total - len(records):,} not started")
    if parts:
        console.print(f"waiting: {'; '.join(parts)}")


def _read_status(request: SearchRequest) -> dict[str, Any]:
    """What the driver last wrote; nothing of what cannot be read or is of another kind."""
    try:
        state = json.loads((request.folder / STATUS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        state = {}
    if not isinstance(state, dict):
        state = {}
    running = state.get("running")
    rows = [row for row in running if isinstance(row, dict)] if isinstance(running, list) else []
    found: dict[str, Any] = {
        "time": _number(state.get("time")),
        # While the confirmation runs, it is that of the confirmation.
        "total": int(_number(state.get("total"))) if state.get("study") == request.study else 0,
        "running": [_row(row) for row in rows],
    }
    for key in ("best", "teacher", "forecast", "rungs", "front"):
        found[key] = state[key] if isinstance(state.get(key), str) else ""
    for key in ("warnings", "picture", "tracking"):
        value = state.get(key)
        lines = value if isinstance(value, list) else []
        found[key] = [line for line in lines if isinstance(line, str)]
    return found


def _number(value: object) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and abs(value) < 1e12 else 0.0  # type: ignore[arg-type]


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `Stage.on_tick`: texts, and two numbers of images."""
    texts = {
        key: one_line(row[key])
        for key in ("name", "what", "phase", "last")
        if isinstance(row.get(key), str)
    }
    return texts | {key: int(_number(row.get(key))) for key in ("images", "of")}
