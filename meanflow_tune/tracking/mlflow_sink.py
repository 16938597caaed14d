"""The sink that writes events to MLflow: experiment = study, run = search, child run = trial.

Every effect is idempotent: runs are looked up by a tag before they are made, metrics keep the time at
which they were measured, artifacts keep their names. MLflow has no fencing, so a driver that was
suspended during a write, and wakes after another took over, still completes that write: what it undid
or doubled is corrected when the search ends (`trials_settled`). MLflow allows no "@" in a metric's
name, so `teacher_gap@1` is called `teacher_gap/nfe_1`; its page groups charts by the part before the
slash.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.tracking.mlflow_store import (
    adopt_artifacts,
    connect,
    default_artifacts,
    default_uri,
)
from meanflow_tune.tracking.outbox import Event
from meanflow_tune.tracking.replay import Rejected
from meanflow_tune.tracking.run_names import milliseconds
from meanflow_tune.tracking.run_tree import RunTree

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
# Without it, the pages treat it as a project with language models.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# Not retryable; everything else (connection, server, lock, full disk) is tried again.
PERMANENT_CODES = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
PERMANENT_ERRORS = (KeyError, TypeError, ValueError, FileNotFoundError)


class MlflowSink:
    """Applies events by its own `MlflowClient`; the process-wide tracking URI is not touched.

    storage: the folder of the studies, which may have been moved since an event was written. uri: a
    server, which places artifacts itself, or a database; None for the storage's own. fence: called
    before each call of MLflow; raises once another driver has taken the study over.
    """

    def __init__(
        self,
        storage: Path,
        uri: str | None = None,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        self._storage, self._fence = storage, fence
        self._uri = uri or default_uri(storage)
        self._remote = self._uri.startswith("http")
        self._connected: MlflowClient | None = None
        self._experiments: dict[str, str] = {}
        self._runs: dict[tuple[str, str], str] = {}
        tree = RunTree(storage, self._client, self._experiment, self._run, self._forget)
        self._handlers: dict[str, Callable[[Event, dict[str, Any]], None]] = tree.handlers

    def apply(self, event: Event) -> None:
        """Write one event. Raises Rejected for a permanent error, anything else for one to retry."""
        from mlflow.exceptions import MlflowException, RestException

        def is_permanent(error: MlflowException) -> bool:
            # An answer in the place of a server (a proxy, a page) is not MLflow's own refusal.
            answered = isinstance(error, RestException) or not self._remote
            return answered and error.error_code in PERMANENT_CODES

        handler = self._handlers.get(event.kind)
        if handler is None:
            raise Rejected(f"unknown kind of event `{event.kind}`")
        try:
            try:
                handler(event, event.payload)
            except MlflowException as error:
                if not is_permanent(error):
                    raise
                # A remembered id may be that of a deleted run; look everything up again.
                self._experiments.clear()
                self._runs.clear()
                handler(event, event.payload)
        except MlflowException as error:
            if is_permanent(error):
                raise Rejected(str(error)) from error
            raise
        except PERMANENT_ERRORS as error:
            raise Rejected(f"{type(error).__name__}: {error}") from error

    def _client(self) -> "MlflowClient":
        """For one call: an event takes many, and the study may be taken over between two of them."""
        self._fence()
        if self._connected is None:
            if self._uri == default_uri(self._storage):
                database = Path(self._uri.removeprefix("sqlite:///"))
                for old in adopt_artifacts(database, default_artifacts(self._storage)):
                    log.info("artifacts of MLflow moved from %s to this storage folder", old)
            self._connected = connect(self._uri)
        return self._connected

    def _experiment(self, study: str) -> str:
        if study in self._experiments:
            return self._experiments[study]
        client = self._client()
        found = client.get_experiment_by_name(study)
        if found is None:
            own = default_artifacts(self._storage) / study
            place = None if self._remote else own.as_uri()
            number = client.create_experiment(study, artifact_location=place, tags=EXPERIMENT_TAGS)
        else:
            number = found.experiment_id
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(number)
        self._experiments[study] = number
        return number

    def _run(self, study: str, tag: str, value: str, start: float, tags: Mapping[str, str]) -> str:
        """The id of the run with this tag, made if there is none."""
        if (study, value) not in self._runs:
            client, experiment = self._client(), self._experiment(study)
            wanted = f"tags.`{tag}` = '{value}'"
            found = client.search_runs([experiment], wanted, max_results=1, order_by=["start_time"])
            at, tags = milliseconds(start), {tag: value, **tags}
            run = found[0] if found else client.create_run(experiment, start_time=at, tags=tags)
            self._runs[study, value] = run.info.run_id
        return self._runs[study, value]

    def _forget(self, study: str, value: str) -> None:
        """Look the run with this tag up again."""
        self._runs.pop((study, value), None)
