"""The sink that writes events to MLflow: experiment = study, run = search, child run = trial.

Every effect can be repeated without doubling it: runs are looked up by a tag before they are made,
metrics keep the time they were measured at, artifacts keep their names. MLflow knows no fencing, so a
driver that slept in the middle of a write, and wakes after another has gone on, still ends that one
write: what it undid or doubled is mended when the search ends (`trials_settled`). MLflow allows no "@"
in a metric's name, so `teacher_gap@1` is called `teacher_gap/nfe_1`; its page groups charts by the part
before the slash.
"""

import logging
import math
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.config.overrides import flatten
from meanflow_tune.tracking.mlflow_store import adopt_artifacts, ensure_database, now_at
from meanflow_tune.tracking.outbox import Event
from meanflow_tune.tracking.replay import Rejected

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
SEARCH_TAG = "meanflow_tune.search"
TRIAL_TAG = "meanflow_tune.trial"
REPEAT_TAG = "meanflow_tune.repeat"
# Else the pages take it for a project with language models.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
PARAMS_A_BATCH = 100
PARAM_LENGTH = 6000
PAGE = 1000  # runs of one answer
THUMBNAIL = 256
RUN_STATUS = {
    "completed": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "diverged": "FAILED",
    "out_of_memory": "FAILED",
    "failed": "FAILED",
}
# What a retry cannot cure; all else (connection, server, lock, full disk) is tried again.
PERMANENT_CODES = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
PERMANENT_ERRORS = (KeyError, TypeError, ValueError, FileNotFoundError)


def default_uri(storage: Path) -> str:
    """The SQLite database that all studies of a storage folder share."""
    return f"sqlite:///{Path(storage).resolve() / 'mlflow.db'}"


def default_artifacts(storage: Path) -> Path:
    """The artifact root that goes with `default_uri`."""
    return Path(storage).resolve() / "artifacts"


class MlflowSink:
    """Applies events by an `MlflowClient` of its own; the process-wide tracking URI is not touched.

    artifacts: root folder for artifacts, for a database URI; None leaves the place to the server.
    storage: the folder of the studies, which may have been moved since an event was made.
    fence: raises, before a call of MLflow, once another driver has taken the study over.
    """

    def __init__(
        self,
        uri: str,
        artifacts: Path | None,
        storage: Path | None = None,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        self._uri = uri
        self._fence = fence
        self._artifacts = artifacts
        self._storage = storage
        self._connected: MlflowClient | None = None
        self._experiments: dict[str, str] = {}
        self._runs: dict[tuple[str, str], str] = {}
        self._handlers: dict[str, Callable[[Event, dict[str, Any]], None]] = {
            "search_started": self._search_started,
            "trial_started": self._trial_started,
            "reported": self._reported,
            "repeated": self._repeated,
            "trial_paused": self._trial_paused,
            "trial_ended": self._trial_ended,
            "trials_settled": self._trials_settled,
            "search_ended": self._search_ended,
        }

    @classmethod
    def for_storage(
        cls, storage: Path, uri: str | None = None, fence: Callable[[], None] = lambda: None
    ) -> "MlflowSink":
        """The sink for a storage folder: its own database, or the server or database at `uri`."""
        artifacts = default_artifacts(storage) if not (uri or "").startswith("http") else None
        return cls(uri or default_uri(storage), artifacts, storage, fence)

    def prepare(self) -> None:
        """Connect: creates a SQLite database (10 s), or raises where a server cannot be reached."""
        self._client().search_experiments(max_results=1)

    def apply(self, event: Event) -> None:
        """Write one event; Rejected where no retry can help, any other exception where one may."""
        from mlflow.exceptions import MlflowException, RestException

        def is_permanent(error: MlflowException) -> bool:
            # What answers in the place of a server (a proxy, a page) is not MLflow's own refusal.
            answered = isinstance(error, RestException) or not self._uri.startswith("http")
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
                # A remembered id may be that of a run that was deleted; look everything up anew.
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
        """For one call: an event is many, and the study may change hands between two of them."""
        self._fence()
        if self._connected is None:
            if self._storage is not None and self._uri == default_uri(self._storage):
                database = self._storage.resolve() / "mlflow.db"
                for old in adopt_artifacts(database, default_artifacts(self._storage)):
                    log.info("artifacts of MLflow were at %s and are here now", old)
            # Read when mlflow is first imported or used. No retries: the outbox does them.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
            logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
            from mlflow import MlflowClient

            # Ray may have imported mlflow before, which then has read the level.
            logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])
            # It prints what it then raises (a full disk), with a traceback, at each try.
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
            ensure_database(self._uri)
            self._connected = MlflowClient(self._uri, registry_uri=self._uri)
        return self._connected

    def _experiment(self, study: str) -> str:
        if study not in self._experiments:
            client = self._client()
            found = client.get_experiment_by_name(study)
            if found is None:
                place = None if self._artifacts is None else (self._artifacts / study).as_uri()
                self._experiments[study] = client.create_experiment(
                    study, artifact_location=place, tags=EXPERIMENT_TAGS
                )
            else:
                if found.lifecycle_stage == "deleted":
                    client.restore_experiment(found.experiment_id)
                self._experiments[study] = found.experiment_id
        return self._experiments[study]

    def _run(self, study: str, tag: str, value: str, start: float, tags: Mapping[str, str]) -> str:
        """The id of the run with this tag, made if there is none."""
        if (study, value) not in self._runs:
            client, experiment = self._client(), self._experiment(study)
            found = client.search_runs(
                [experiment], f"tags.`{tag}` = '{value}'", max_results=1, order_by=["start_time"]
            )
            run = (
                found[0]
                if found
                else client.create_run(
                    experiment, start_time=_milliseconds(start), tags={tag: value, **tags}
                )
            )
            self._runs[study, value] = run.info.run_id
        return self._runs[study, value]

    def _search_run(self, event: Event, p: Mapping[str, Any]) -> str:
        tags = {"mlflow.runName": p["study"]}
        return self._run(p["study"], SEARCH_TAG, p["uid"], event.time, tags)

    def _trial_run(self, event: Event, p: Mapping[str, Any]) -> str:
        tags = {
            "mlflow.parentRunId": self._search_run(event, p),
            "mlflow.runName": _run_name(p["trial"], p.get("baseline")),
            "trial": p["trial"],
        }
        start = p.get("started") or event.time
        return self._run(p["study"], TRIAL_TAG, f"{p['uid']}/{p['trial']}", start, tags)

    def _search_started(self, event: Event, p: dict[str, Any]) -> None:
        run = self._search_run(event, p)
        self._tag(run, {"state": "running", **p["facts"]})
        # A search that goes on after its end is the same run again.
        self._client().update_run(run, status="RUNNING")

    def _trial_started(self, event: Event, p: dict[str, Any]) -> None:
        run = self._trial_run(event, p)
        searched = {f"param/{name}": value for name, value in p["params"].items()}
        self._params(run, {**flatten(p["config"]), **searched})
        if not any(file.path == "config.json" for file in self._client().list_artifacts(run)):
            self._client().log_dict(run, p["config"], "config.json")
        tags = {"attempt": p["attempt"], "state": "running", "rung": 0}
        if p.get("terms"):  # what a change of code, space or data was accepted for
            tags["terms"] = p["terms"]
        self._tag(run, tags | ({"baseline": p["baseline"]} if p["baseline"] else {}))

    def _reported(self, event: Event, p: dict[str, Any]) -> None:
        run = self._trial_run(event, p)
        tags = {"rung": p["rung"], "images": p["report"]["images"]}
        decision = p.get("decision")
        self._report(run, p, p["value"], tags | ({"decision": decision} if decision else {}))

    def _repeated(self, event: Event, p: dict[str, Any]) -> None:
        """A run below the trial's, so that its figures stay apart from those of the trial's own seed."""
        trial, repeat = self._trial_run(event, p), p["report"]["repeat"]
        tags = {
            "mlflow.parentRunId": trial,
            "mlflow.runName": f"repeat {repeat} of {_run_name(p['trial'], p.get('baseline'))}",
            "repeat": str(repeat),
        }
        name = f"{p['uid']}/{p['trial']}/{repeat}"
        run = self._run(p["study"], REPEAT_TAG, name, event.time, tags)
        self._report(run, p, None, {"state": "completed"})
        self._end(run, "FINISHED", p["report"]["time"])

    def _trial_paused(self, event: Event, p: dict[str, Any]) -> None:
        self._tag(self._trial_run(event, p), {"state": "paused"})

    def _report(
        self, run: str, p: Mapping[str, Any], value: float | None, tags: dict[str, Any]
    ) -> None:
        from mlflow.entities import Metric

        report = p["report"]
        at, step = _milliseconds(report["time"]), report["images"]
        values = {mlflow_name(name): value for name, value in report["metrics"].items()}
        values |= {mlflow_name(f"cost/{name}"): value for name, value in report["cost"].items()}
        if value is not None:
            values["objective"] = value
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        metrics = [Metric(name, value, at, step) for name, value in finite.items()]
        self._client().log_batch(run, metrics=metrics, synchronous=True)
        for name, path in report["artifacts"].items():
            if path.endswith(".png"):
                self._picture(run, name, self._place(p, path), step, at)
        missing = sorted(values.keys() - finite.keys())
        self._tag(run, tags | ({"not_finite": ", ".join(missing)} if missing else {}))

    def _trial_ended(self, event: Event, p: dict[str, Any]) -> None:
        from meanflow_tune.tracking.logged_model import log_student

        run = self._trial_run(event, p)
        self._tag(run, {"state": p["status"]} | ({"reason": p["reason"]} if p["reason"] else {}))
        if p["model"] is not None:
            tags = {TRIAL_TAG: f"{p['uid']}/{p['trial']}"}
            experiment = self._experiment(p["study"])
            log_student(
                self._client(), experiment, run, tags, self._place(p, p["model"]), p["images"]
            )
        self._end(run, RUN_STATUS[p["status"]], p["ended"] or event.time)

    def _trials_settled(self, event: Event, p: dict[str, Any]) -> None:
        """Ended trials as the study has them, one run each, whatever a driver that slept wrote late.

        Nor did MLflow hear that an objective was changed, and computed anew for the trials of before.
        """
        experiment = self._experiment(p["study"])
        runs: dict[tuple[str, str], list[Any]] = {}
        for run in self._every_run(experiment):
            for tag in (SEARCH_TAG, TRIAL_TAG, REPEAT_TAG):
                value = run.data.tags.get(tag, "")
                if value.partition("/")[0] == p["uid"]:
                    runs.setdefault((tag, value), []).append(run)
        for (tag, value), same in runs.items():
            kept, *doubled = sorted(same, key=_content, reverse=True)
            for run in doubled:
                self._client().delete_run(run.info.run_id)
                self._runs.pop((p["study"], value), None)
            told = p["trials"].get(value.partition("/")[2]) if tag == TRIAL_TAG else None
            if told is None:
                continue
            tags = {
                mlflow_name(key): str(text)[:PARAM_LENGTH] for key, text in told["tags"].items()
            }
            if not tags.items() <= kept.data.tags.items():
                self._tag(kept.info.run_id, tags)
            status = RUN_STATUS[told["tags"]["state"]]
            if kept.info.status != status:
                self._end(kept.info.run_id, status, told["ended"] or event.time)
            value = told["objective"]
            if value is not None and kept.data.metrics.get("objective") not in (None, value):
                at, step = _milliseconds(event.time), told["tags"]["images"]
                self._client().log_metric(kept.info.run_id, "objective", value, at, step)

    def _every_run(self, experiment: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._client().search_runs([experiment], max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _search_ended(self, event: Event, p: dict[str, Any]) -> None:
        run, summary = self._search_run(event, p), dict(p["summary"])
        status = summary.pop("status")
        self._tag(run, {"state": status, **summary})
        for path in p["files"]:
            self._client().log_artifact(run, str(self._place(p, path)))
        self._end(run, RUN_STATUS[status], event.time)

    def _place(self, p: Mapping[str, Any], path: str) -> Path:
        return Path(path) if self._storage is None else now_at(path, p["study"], self._storage)

    def _params(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        # A longer value is cut here and whole in config.json.
        every = [
            Param(mlflow_name(key), str(value)[:PARAM_LENGTH]) for key, value in params.items()
        ]
        for start in range(0, len(every), PARAMS_A_BATCH):
            batch = every[start : start + PARAMS_A_BATCH]
            self._client().log_batch(run, params=batch, synchronous=True)

    def _tag(self, run: str, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        every = [RunTag(mlflow_name(key), str(value)[:PARAM_LENGTH]) for key, value in tags.items()]
        self._client().log_batch(run, tags=every, synchronous=True)

    def _end(self, run: str, status: str, at: float) -> None:
        self._client().set_terminated(run, status, end_time=_milliseconds(at))

    def _picture(self, run: str, name: str, path: Path, step: int, at: int) -> None:
        """What `MlflowClient.log_image` does, under a name that is the same again in a replay."""
        import tempfile

        from PIL import Image

        same = uuid.uuid5(uuid.NAMESPACE_OID, f"{run}/{name}/{step}/{at}")
        stem = f"{name.replace('/', '~')}+step+{step}+timestamp+{at}+{same}"
        with tempfile.TemporaryDirectory() as folder, Image.open(path) as image:
            image.save(Path(folder) / f"{stem}.png")
            small = image.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            small.save(Path(folder) / f"{stem}+compressed.webp")
            self._client().log_artifacts(run, folder, "images")
        self._client().set_tag(run, "mlflow.loggedImages", "True", synchronous=True)


def _content(run: Any) -> tuple[int, str]:
    """Orders runs by how much was written to them; one that was made twice is empty."""
    return len(run.data.params) + len(run.data.metrics) + len(run.data.tags), run.info.run_id


def mlflow_name(name: str) -> str:
    """`teacher_gap@1` is `teacher_gap/nfe_1`; any other character refused by MLflow is `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "/nfe_"))


def _run_name(trial: str, baseline: str | None) -> str:
    """`trial 00007 backward`; the number has zeros in front, so that names sort."""
    *part, number = trial.split("/")
    words = [*(part or ["trial"]), f"{int(number):05d}", *([baseline] if baseline else [])]
    return " ".join(words)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
