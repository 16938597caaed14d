"""MLflow as far as the driver goes: whether it can be used, what waits for it, and what it refused."""

import os
import time
from collections.abc import Callable, Iterable

from meanflow_tune.driver.stage import Stage
from meanflow_tune.plan.request import EXIT_UNUSABLE, SearchRequest, UserError
from meanflow_tune.report.commands import with_remedy
from meanflow_tune.report.live import View
from meanflow_tune.report.text import about
from meanflow_tune.search.errors import DatabaseDown, UnusableDatabase
from meanflow_tune.search.store.database import check_database, is_postgresql
from meanflow_tune.search.store.manifest import MANIFEST_NAME
from meanflow_tune.tracking.replay import Replayer
from meanflow_tune.tracking.tracking_uri import NoAnswer, UnusableUri, check_uri

VARIABLE = "MLFLOW_TRACKING_URI"
BACKLOG = 100  # events that wait for MLflow before anybody needs to know
STILL_SECONDS = 30.0  # without any event taken, after which the end of a command waits no more
RATED_SECONDS = 10.0  # after which the time that all events would take is estimated


def check_tracking(request: SearchRequest) -> str:
    """Before Ray starts: "", or a warning that MLflow does not answer and will get everything later.

    Raises UserError for a URI that cannot be used, and for a server that does not answer unless there is
    a study to resume.
    """
    uri = request.mlflow_uri
    named = request.tracking_uri is not None and os.environ.get(VARIABLE) == request.tracking_uri
    name = VARIABLE if named else "--tracking-uri"
    database = is_postgresql(uri)
    try:
        check_uri(uri)
        if database:
            check_database(uri)  # whether it lets this user in
    except UnusableUri as error:
        raise UserError(f"{name} {error}") from None
    except UnusableDatabase as error:
        raise UserError(f"{name}: {error}.") from None
    except (NoAnswer, DatabaseDown) as error:
        resuming = request.resume != "fresh" and (request.folder / MANIFEST_NAME).exists()
        if resuming:
            return (
                f"{name} {error}; the search continues, and its events are kept and sent as soon as MLflow "
                "answers"
            )
        start = "Start it" if database else "Start it (`mlflow server`)"
        raise UserError(
            f"{name} {error}. {start}, correct the URI, or leave it out to use "
            f"{request.storage / 'mlflow.db'}.",
            EXIT_UNUSABLE,
        ) from None
    return ""


def tracking_lines(stages: Iterable[Stage]) -> list[str]:
    """What waits for MLflow because of an error, and what it refused, over all drivers of the study."""
    lines: list[str] = []
    for stage in _tracked(stages):
        status = stage.replayer.status()
        waiting = status.pending + status.repairs
        if status.error is not None and status.failing_since is not None:
            since = time.strftime("%H:%M:%S", time.localtime(status.failing_since))
            what = f"{waiting} events wait for it" if waiting else "its audit waits"
            lines.append(f"MLflow fails since {since} ({status.error}); {what} ({stage.name})")
        lines += stage.replayer.rejections.lines(stage.name)
    return lines


def backlog_lines(stages: Iterable[Stage]) -> list[str]:
    """How many events wait for MLflow, where it fails or is far behind."""
    lines = []
    for stage in _tracked(stages):
        status = stage.replayer.status()
        waiting = status.pending + status.repairs
        if waiting >= BACKLOG or (waiting and status.error is not None):
            why = "which fails" if status.error is not None else "which is slower than the search"
            lines.append(f"{waiting:,} events for MLflow, {why}")
    return lines


def drain(
    stages: Iterable[Stage],
    view: View,
    seconds: float,
    command: str,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Let MLflow catch up for at most `seconds`, or until its server fails, stands still or is too slow.

    command: that sends what is left.
    """
    deadline = clock() + seconds
    for stage in _tracked(stages):
        replayer = stage.replayer
        failures = replayer.status().failures
        left = replayer.drain(0.5)
        if left:
            view.event(
                f"sending the remaining {_events(left)} to MLflow ({stage.name}), for at most "
                f"{about(max(1.0, deadline - clock()))}"
            )
        why = _wait(replayer, failures, deadline, clock)
        left = replayer.drain(0.0)
        if not left:
            continue
        status = replayer.status()
        why = status.error or why
        if status.pending + status.repairs:
            view.error(
                f"{_events(left)} of {stage.name} {'is' if left == 1 else 'are'} waiting for MLflow ({why}); "
                f"nothing is lost, and running the same command again sends the rest:\n  "
                f"{with_remedy(command)}"
            )
        else:
            view.error(
                f"what MLflow has of {stage.name} could not be compared with the study ({why}); running the "
                f"same command again does that:\n  {with_remedy(command)}"
            )


def _wait(replayer: Replayer, failures: int, deadline: float, clock: Callable[[], float]) -> str:
    """Wait until all is sent, or until waiting is in vain; returns why.

    failures: how many there had been before; the last error may be that of a server which is back.
    """
    began = moved = clock()
    first = left = replayer.drain(1.0)
    while left and replayer.status().failures == failures:
        now = clock()
        rate = (first - left) / max(now - began, 1.0)  # events per second
        if now >= deadline:
            return "it is slow"
        if now - moved >= STILL_SECONDS:
            return f"it has taken none for {STILL_SECONDS:.0f} s"
        if now - began >= RATED_SECONDS and rate > 0.0 and left / rate > 2.0 * (deadline - now):
            return f"it takes {rate:.2g} per second, which would be {about(left / rate)}"
        before, left = left, replayer.drain(1.0)
        if left != before:
            moved = clock()
    return "it is slow"


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"


def say_refused(stages: Iterable[Stage], view: View) -> None:
    """Print what MLflow refused, at the end of a command."""
    for stage in _tracked(stages):
        for line in stage.replayer.rejections.lines(stage.name):
            view.error(line)


def _tracked(stages: Iterable[Stage]) -> list[Stage]:
    """One stage per outbox: a confirmation shares that of its search."""
    found: dict[int, Stage] = {}
    for stage in stages:
        found.setdefault(id(stage.replayer), stage)
    return list(found.values())
