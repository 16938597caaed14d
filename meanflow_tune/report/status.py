"""`--status`: what a study holds and, where a driver is running, its trials and slots. Reads only.

It takes what a driver leaves in status.json, if that is all there is to know; reading 10,000 trials takes
many seconds, and so does importing what reads them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.text import Text

from meanflow_tune.files import OnlyShown
from meanflow_tune.plan.request import EXIT_OK, SearchRequest, UserError
from meanflow_tune.report.characters import one_line
from meanflow_tune.report.running import running_lines
from meanflow_tune.report.safe_console import make_console
from meanflow_tune.report.state.fault_lines import fault_lines
from meanflow_tune.report.state.host_lines import slot_lines
from meanflow_tune.report.state.standing import outlook_lines, standing_lines
from meanflow_tune.report.state.status_file import (
    STALE_SECONDS,
    Status,
    read_status,
    trusted_trials,
)
from meanflow_tune.report.state.trial_rows import StudyState, show_trials
from meanflow_tune.report.text import counted, hanging, headed
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.store.holder import has_died, read_lease
from meanflow_tune.search.store.manifest import Manifest
from meanflow_tune.search.study.inbox import Inbox

REFUSED_SHOWN = 3
NAMED = 8  # paused trials that are named
SLOTS, ROWS = 12, 12  # slots and running trials that a screen shows


def show_status(request: SearchRequest, everything: bool = False) -> int:
    """Print what a study holds and, where a driver is at work, its running trials. Reads only.

    everything: all trials and slots instead of what a screen holds.
    """
    folder = request.folder
    try:
        Manifest.read(folder)  # refuses one of a newer version by name
    except StorageError as error:
        raise _unreadable(error) from None
    console, status = make_console(), read_status(request)
    words, held = _driver(request, status)
    live = held and status.age < STALE_SECONDS
    study, older = trusted_trials(request, status, live)
    said = dict(status.words)
    if study is None or everything:
        study, best = _read_study(request, everything)
        older, said["best"] = False, said["best"] or best
    rows = status.running if held else ()
    most = None if everything else ROWS
    shown = OnlyShown(lambda text: console.print(text, style="yellow"))
    console.print(headed(request.study, f": {words}"))
    parts: dict[str, Callable[[], None]] = {
        "show the trials": partial(show_trials, console, study, rows),
        "show the counts": partial(_show_counts, console, study, status.total),
        "show the best trials": lambda: _print_lines(console, standing_lines(said)),
        "show the running trials": lambda: _print_lines(
            console, running_lines(rows, console.width, most)
        ),
        "show the slots": lambda: _print_lines(
            console, slot_lines(status.hosts if held else (), None if everything else SLOTS)
        ),
        "show the faults": lambda: _print_lines(console, fault_lines(status.faults, everything)),
        "show what MLflow refused": lambda: _print_lines(
            console, list(map(Text, said["tracking"]))
        ),
        "show the requests": partial(_show_requests, console, Inbox(folder)),
        "show what waits": partial(
            _show_waiting, console, study, status.total, held, said["waiting"] if live else ()
        ),
    }
    if older:
        parts["show when that was"] = partial(_show_age, console, status)
    if live:
        parts["show the outlook"] = partial(show_outlook, console, said)
    for purpose, show in parts.items():
        shown(purpose, show, None)
    return EXIT_OK


def show_outlook(console: Console, state: Mapping[str, Any]) -> None:
    """Print the outlook that a driver left in its status."""
    _print_lines(console, outlook_lines(state, picture=True))


def _driver(request: SearchRequest, status: Status) -> tuple[str, bool]:
    """Whether a driver is at work, in words, and whether one holds the study."""
    lease = read_lease(request.folder)
    if lease is None or lease.pid is None:
        return "no driver at work", False
    if has_died(lease):
        return "no driver at work; the last one was killed, and the same command resumes it", False
    if status.age < STALE_SECONDS:
        return f"running, process {lease.pid} on {lease.host}", True
    return f"its driver has been silent for {status.age:.0f} s; was it killed?", True


def _read_study(request: SearchRequest, everything: bool) -> tuple[StudyState, str]:
    """The trials of the study itself, and the best so far, in words."""
    from meanflow_tune.report.outlook import best_so_far
    from meanflow_tune.report.state.trial_choice import study_state
    from meanflow_tune.search.store.storage import open_storage
    from meanflow_tune.search.store.trials import read_records, study_directions
    from meanflow_tune.search.study.relocate import find_study

    try:
        storage = open_storage(find_study(request.folder, request.study_storage))
        records = read_records(storage, request.study, request.folder)
    except StorageError as error:
        raise _unreadable(error) from None
    ways = study_directions(storage, request.study)
    best = best_so_far(records, ways[0]) if len(ways) == 1 else ""
    return study_state(records, ways, everything), best


def _unreadable(error: StorageError) -> UserError:
    return UserError(f"--status: {error}; name it by --study and --storage.")


def _print_lines(console: Console, lines: Sequence[Text]) -> None:
    for line in lines:
        console.print(hanging(line, console.width))


def _show_counts(console: Console, study: StudyState, total: int) -> None:
    listed = ", ".join(f"{count} {status}" for status, count in study.done.items())
    of = f" of {total:,}" if total > study.count else ""
    console.print(f"{counted(study.count, 'trial')}{of}{': ' if listed else ''}{listed}")


def _show_age(console: Console, status: Status) -> None:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.time))
    console.print(
        f"the trials are those of {when}, when the driver wrote its last status; --status --all reads "
        "the study itself",
        style="yellow",
    )


def _show_requests(console: Console, inbox: Inbox) -> None:
    """What other terminals asked for and the driver has not applied, and what it refused last."""
    for request in inbox.waiting():
        fault = f" ({request.fault})" if request.fault else ""
        console.print(f"asked for: {one_line(str(request))}{one_line(fault)}", markup=False)
    for request in inbox.refused()[-REFUSED_SHOWN:]:
        why = request.reason or request.fault
        console.print(f"refused: {one_line(f'{request} ({why})')}", style="yellow", markup=False)


def _show_waiting(
    console: Console, study: StudyState, total: int, held: bool, waiting: Sequence[str]
) -> None:
    """What the driver says that waits; paused trials, trials without a driver, and those not proposed yet."""
    lines = list(waiting)
    if study.paused:
        lines.append(f"{_listed(study.paused, study.done.get('paused', 0))} for a promotion")
    if study.running and not held:
        left = _listed(study.running, study.done.get("running", 0))
        lines.append(f"{left} for the next run of the command")
    if total > study.count:
        lines.append(f"{total - study.count:,} not started")
    if len(lines) == 1 or not waiting:
        if lines:
            console.print(f"waiting: {'; '.join(lines)}")
        return
    console.print("waiting:")
    _print_lines(console, [Text(f"  {one_line(line)}") for line in lines])


def _listed(numbers: Sequence[int], count: int) -> str:
    shown = ", ".join(map(str, numbers[:NAMED]))
    return f"{shown} and {count - NAMED:,} more" if count > NAMED else shown
