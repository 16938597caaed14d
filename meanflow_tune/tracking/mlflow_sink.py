"""The sink that writes events to MLflow: experiment = study, run = search, child run = trial.

Every effect is idempotent: runs are looked up by a tag before they are made, metrics keep the time at
which they were measured, artifacts keep their names. MLflow has no fencing, so a driver that was
suspended during a write, and wakes after another took over, still completes that write: what it undid
or doubled is corrected when the search ends (`trials_settled`). MLflow allows no "@" in a metric's
name, so `teacher_gap@1` is called `teacher_gap/nfe_1`; its page groups charts by the part before the
slash.
"""

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.checksums import Damaged, refuse_damaged
from meanflow_tune.files import sqlite_path, sqlite_url
from meanflow_tune.tracking.audit import EVENTS_TAG, PARENT_TAG, SETTLED, compare, receipt, subject
from meanflow_tune.tracking.experiments import STUDY_TAG, find_experiment
from meanflow_tune.tracking.mlflow_store import (
    adopt_artifacts,
    connect,
    default_artifacts,
    default_uri,
)
from meanflow_tune.tracking.outbox import Event
from meanflow_tune.tracking.replay import Audit, Rejected
from meanflow_tune.tracking.run_names import milliseconds
from meanflow_tune.tracking.run_tree import RunTree, every_run, most_written
from meanflow_tune.tracking.runs_view import runs_page
from meanflow_tune.urls import hide_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
# What MLflow refuses for its content; everything else (connection, server, lock, full disk) is tried again.
PERMANENT_CODES = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
# Of the handlers: a damaged event, or a file that is gone.
PERMANENT_ERRORS = (KeyError, TypeError, ValueError, FileNotFoundError)
MOST_DOUBLES = 100  # runs of one trial, of which a server that answers too late makes a second
# Of the connection, though they are ValueErrors: an answer that is not MLflow's, a host's name.
PASSING_ERRORS = (json.JSONDecodeError, UnicodeError)
# MLflow calls a damaged database a bad request.
DAMAGED = re.compile(r"sqlite3\.DatabaseError|disk image is malformed|is not a database")
REMEDIES = {
    Damaged: "its trial's last checkpoint is gone or damaged, too: train its config.json by scripts/train.py",
    FileNotFoundError: "put the file back and run the same command again",
    KeyError: "it was written by another version of meanflow_tune: resume with that one",
    "INVALID_PARAMETER_VALUE": "the study and its result files have what MLflow does not take",
}


class StaleIds(Exception):
    """A remembered experiment or run is not there any more, or is another study's."""


class MlflowSink:
    """Applies events by its own `MlflowClient`; the process-wide tracking URI is not touched.

    storage: the folder of the studies, which may have been moved since an event was written. uri: a
    server, which places artifacts itself, or a database; None for the storage's own. fence: called
    before each call of MLflow; raises once another driver has taken the study over. say: gets a line
    about what a user would not expect. repair: makes a damaged export again, called with its folder and
    the reason. artifacts: the URL of their root, where it is not in the folder.
    """

    def __init__(
        self,
        storage: Path,
        uri: str | None = None,
        fence: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = log.warning,
        repair: Callable[[Path, str], None] = refuse_damaged,
        artifacts: str | None = None,
    ) -> None:
        self._storage, self._fence, self._say = storage, fence, say
        self._artifacts = artifacts
        self._uri = uri or default_uri(storage)
        self._remote = self._uri.startswith("http")
        self.target = target_of(self._uri, storage)
        self._connected: MlflowClient | None = None
        self._uids: dict[str, str] = {}
        self._experiments: dict[str, str] = {}
        self._runs: dict[tuple[str, str], str] = {}
        self._receipts: dict[str, set[str]] = {}
        tree = RunTree(storage, self._client, self._experiment, self._run, self._forget, repair)
        self._handlers: dict[str, Callable[[Event, dict[str, Any]], None]] = tree.handlers

    def page(self, study: str, server: str) -> str | None:
        """The link to a study's runs; None before its first event was applied."""
        number = self._experiments.get(study)
        return runs_page(number, server) if number is not None else None

    def apply(self, event: Event) -> None:
        """Write one event. Raises Rejected for what no retry helps against now, anything else to retry."""
        from mlflow.exceptions import MlflowException, RestException

        def is_permanent(error: MlflowException) -> bool:
            # An answer in the place of a server (a proxy, a page) is not MLflow's own refusal.
            answered = isinstance(error, RestException) or not self._remote
            content = answered and error.error_code in PERMANENT_CODES
            return content and not DAMAGED.search(str(error))

        try:
            try:
                self._write(event)
            except (MlflowException, StaleIds) as error:
                if isinstance(error, MlflowException) and not is_permanent(error):
                    raise
                # A remembered id may be that of a deleted run; look everything up again.
                self._look_up_again()
                self._write(event)
        except MlflowException as error:
            self._look_up_again()
            if is_permanent(error):
                raise Rejected(str(error), REMEDIES.get(error.error_code, "")) from error
            raise
        except PASSING_ERRORS:
            raise
        except PERMANENT_ERRORS as error:
            remedy = next((REMEDIES[kind] for kind in type(error).__mro__ if kind in REMEDIES), "")
            raise Rejected(f"{type(error).__name__}: {error}", remedy) from error

    def _write(self, event: Event) -> None:
        handler = self._handlers.get(event.kind)
        if handler is None:
            remedy = "it was written by a later version of meanflow_tune: resume with that one"
            raise Rejected(f"unknown kind of event `{event.kind}`", remedy)
        p = event.payload
        self._uids[p["study"]] = p["uid"]
        handler(event, p)
        run = self._runs.get((p["study"], subject(event)))
        if run is None or event.kind == SETTLED:
            return
        receipts = self._receipts.setdefault(run, set())
        if receipt(event) not in receipts:
            text = " ".join(sorted({*receipts, receipt(event)}))
            self._client().set_tag(run, EVENTS_TAG, text, synchronous=True)
            receipts.add(receipt(event))

    def audit(self, events: Iterable[Event], refused: Collection[int]) -> Audit:
        """Which events of those applied earlier MLflow lacks: a page of runs per call, none per run."""
        every = [event for event in events if "uid" in event.payload]
        if not every:
            return Audit([])
        self._look_up_again()
        p = every[-1].payload
        self._uids[p["study"]] = p["uid"]
        return compare(every, every_run(self._client, self._experiment(p["study"])), refused)

    def _look_up_again(self) -> None:
        for remembered in (self._experiments, self._runs, self._receipts):
            remembered.clear()

    def _client(self) -> "MlflowClient":
        """For one call: an event takes many, and the study may be taken over between two of them."""
        self._fence()
        if self._connected is None:
            try:
                self._connected = self._connect()
            except (*PERMANENT_ERRORS, _mlflow_error()) as error:  # no event's fault
                raise ConnectionError(hide_password(f"{self._uri}: {error}")) from error
        return self._connected

    def _connect(self) -> "MlflowClient":
        if self._uri == default_uri(self._storage):
            database = sqlite_path(self._uri)
            assert database is not None
            for old in adopt_artifacts(database, default_artifacts(self._storage)):
                log.info("artifacts of MLflow moved from %s to this storage folder", old)
        return connect(self._uri)

    def _experiment(self, study: str) -> str:
        if study not in self._experiments:

            def place(name: str) -> str | None:
                if self._remote:
                    return None
                if self._artifacts is not None:
                    return f"{self._artifacts}/{name}"
                return (default_artifacts(self._storage) / name).as_uri()

            self._experiments[study] = find_experiment(
                self._client(), study, self._uids[study], place, self._say
            )
        return self._experiments[study]

    def _run(self, study: str, tag: str, value: str, start: float, tags: Mapping[str, str]) -> str:
        """The id of the run with this tag, made if there is none."""
        if (study, value) not in self._runs:
            client, known = self._client(), study in self._experiments
            experiment = self._experiment(study)
            wanted = f"tags.`{tag}` = '{value}'"
            found = client.search_runs([experiment], wanted, max_results=MOST_DOUBLES)
            at, tags = milliseconds(start), {tag: value, **tags}
            if found:
                run = most_written(found)
                parent = tags.get(PARENT_TAG)
                if parent != run.data.tags.get(PARENT_TAG, parent):  # which was deleted, or lost
                    client.set_tag(run.info.run_id, PARENT_TAG, parent, synchronous=True)
            else:
                if known:  # since a server's database may have been replaced by another
                    owner = client.get_experiment(experiment).tags.get(STUDY_TAG)
                    if owner != self._uids[study]:
                        raise StaleIds
                run = client.create_run(experiment, start_time=at, tags=tags)
            self._runs[study, value] = run.info.run_id
            self._receipts[run.info.run_id] = set(run.data.tags.get(EVENTS_TAG, "").split())
        return self._runs[study, value]

    def _forget(self, study: str, value: str) -> None:
        """Look the run with this tag up again."""
        self._runs.pop((study, value), None)


def target_of(uri: str, storage: Path) -> str:
    """Names a target of a study's events, without a password: "" for the storage's own database."""
    if uri == default_uri(storage):
        return ""
    path = sqlite_path(uri)
    return hide_password(uri).rstrip("/") if path is None else sqlite_url(path.absolute())


def _mlflow_error() -> type[Exception]:
    from mlflow.exceptions import MlflowException

    return MlflowException
