"""MLflow as far as the driver goes: whether it can be used, what waits for it, and what it refused."""

import os
import time
from collections.abc import Iterable

from meanflow_tune.driver.stage import Stage
from meanflow_tune.plan.request import EXIT_UNUSABLE, SearchRequest, UserError
from meanflow_tune.report.commands import with_remedy
from meanflow_tune.report.live import View
from meanflow_tune.search.store.manifest import MANIFEST_NAME
from meanflow_tune.tracking.tracking_uri import NoAnswer, UnusableUri, check_uri

VARIABLE = "MLFLOW_TRACKING_URI"
BACKLOG = 100  # events that wait for MLflow before anybody needs to know


def check_tracking(request: SearchRequest) -> str:
    """Before Ray starts: "", or a warning that MLflow does not answer and will get everything later.

    Raises UserError for a URI that cannot be used, and for a server that does not answer unless there is
    a study to resume.
    """
    uri = request.mlflow_uri
    named = request.tracking_uri is not None and os.environ.get(VARIABLE) == request.tracking_uri
    name = VARIABLE if named else "--tracking-uri"
    try:
        check_uri(uri)
    except UnusableUri as error:
        raise UserError(f"{name} {error}") from None
    except NoAnswer as error:
        resuming = request.resume != "fresh" and (request.folder / MANIFEST_NAME).exists()
        if resuming:
            return (
                f"{name} {error}; the search continues, and its events are kept and sent as soon as MLflow "
                "answers"
            )
        raise UserError(
            f"{name} {error}. Start it (`mlflow server`), correct the URI, or leave it out to use "
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


def drain(stages: Iterable[Stage], view: View, seconds: float, command: str) -> None:
    """Let MLflow catch up for at most `seconds`, or until its server fails.

    command: that sends what is left.
    """
    deadline = time.monotonic() + seconds
    for stage in _tracked(stages):
        replayer = stage.replayer
        if replayer.drain(0.5):
            view.event(f"sending the remaining events to MLflow ({stage.name})")
        left = replayer.drain(1.0)
        while left and time.monotonic() < deadline and not replayer.status().error:
            left = replayer.drain(1.0)
        if not left:
            continue
        status = replayer.status()
        why = status.error or "it is slow"
        if status.pending + status.repairs:
            view.error(
                f"{left} events of {stage.name} are waiting for MLflow ({why}); they are kept, "
                f"and running the same command again sends them:\n  {with_remedy(command)}"
            )
        else:
            view.error(
                f"what MLflow has of {stage.name} could not be compared with the study ({why}); running the "
                f"same command again does that:\n  {with_remedy(command)}"
            )


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
