"""`--on-end`: a shell command at the end of a search, for a notification. It never changes how that ended."""

import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from meanflow_tune.plan.request import (
    EXIT_ALL_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    SearchRequest,
    UserError,
)
from meanflow_tune.report.last_screen import SUMMARY
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.store.manifest import Manifest
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.trials import best_record, read_records
from meanflow_tune.search.study.relocate import find_study
from meanflow_tune.urls import hide_password

log = logging.getLogger(__name__)
LIMIT_SECONDS = 60.0
STATUS_OF = {EXIT_OK: "completed", EXIT_ALL_FAILED: "failed", EXIT_INTERRUPTED: "interrupted"}


@dataclass
class End:
    """How a search ends; status: its exit status."""

    status: int = 1
    error: str = ""


@contextmanager
def reporting_end(request: SearchRequest) -> Iterator[End]:
    """Runs the request's command after the block, also if that raises; the block sets the exit status."""
    end = End()
    try:
        yield end
    except UserError as error:
        end.status, end.error = error.status, str(error)
        raise
    except KeyboardInterrupt:
        end.status = EXIT_INTERRUPTED
        raise
    except BaseException as error:
        end.error = f"{type(error).__name__}: {error}"
        raise
    finally:
        if request.on_end is not None:
            run_command(request.on_end, environment(request, end))


def environment(request: SearchRequest, end: End) -> dict[str, str]:
    """The variables that the command finds; an empty text for what there is not."""
    try:
        best = _best(request)
    except Exception:  # a study that is damaged, or was never made
        log.debug("no best trial for --on-end", exc_info=True)
        best = {}
    summary = request.folder / SUMMARY
    return {
        "MEANFLOW_TUNE_STUDY": request.study,
        "MEANFLOW_TUNE_FOLDER": str(request.folder),
        "MEANFLOW_TUNE_STATUS": STATUS_OF.get(end.status, "error"),
        "MEANFLOW_TUNE_EXIT_STATUS": str(end.status),
        "MEANFLOW_TUNE_ERROR": hide_password(" ".join(end.error.split())),
        "MEANFLOW_TUNE_BEST_VALUE": best.get("value", ""),
        "MEANFLOW_TUNE_BEST_TRIAL": best.get("trial", ""),
        "MEANFLOW_TUNE_TRIALS": best.get("trials", ""),
        "MEANFLOW_TUNE_SUMMARY": str(summary) if summary.is_file() else os.devnull,
    }


def run_command(command: str, variables: dict[str, str], limit: float = LIMIT_SECONDS) -> None:
    """Run a shell command in a session of its own; end it after `limit` seconds. Raises nothing."""
    try:
        process = subprocess.Popen(
            command,
            shell=True,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        log.warning("--on-end could not be started: %s", error)
        return
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        log.warning("--on-end did not end within %.0f s and was killed", limit)
    except KeyboardInterrupt:
        log.warning("--on-end was interrupted and killed")
    else:
        if status:
            log.warning("--on-end ended with status %d", status)
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _best(request: SearchRequest) -> dict[str, str]:
    manifest = Manifest.read(request.folder)
    if manifest is None:
        return {}
    storage = open_storage(find_study(request.folder, request.study_storage))
    records = read_records(storage, request.study, request.folder)
    found = {"trials": str(len(records))}
    single = Objectives.parse(manifest.objective).single
    best = best_record(records, single.direction) if single is not None else None
    return found if best is None else found | {"trial": str(best.number), "value": repr(best.value)}
