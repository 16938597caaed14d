"""The sink that writes events to MLflow: experiment = study, run = search, child run = trial.

Every effect is idempotent: runs are looked up by a tag before they are made, metrics keep the time at
which they were measured, artifacts keep their names. MLflow has no fencing, so a driver that was
suspended during a write, and wakes after another took over, still completes that write: what it undid
or doubled is corrected when the search ends (`trials_settled`). MLflow allows no "@" in a metric's
name, so `teacher_gap@1` is called `teacher_gap/nfe_1`; its page groups charts by the part before the
slash.
"""

import logging
import math
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.config.overrides import flatten
from meanflow_tune.files import is_full
from meanflow_tune.tracking.mlflow_store import (
    adopt_artifacts,
    connect,
    current_path,
    default_artifacts,
    default_uri,
)
from meanflow_tune.tracking.outbox import Event
from meanflow_tune.tracking.replay import Rejected

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
SEARCH_TAG = "meanflow_tune.search"
TRIAL_TAG = "meanflow_tune.trial"
IMPLAUSIBLE_TAG = "implausible"  # of a completed trial whose training failed: in what way
REPEAT_TAG = "meanflow_tune.repeat"
# Without it, the pages treat it as a project with language models.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000
PAGE = 1000  # runs per answer
THUMBNAIL = 256
RUN_STATUS = {
    "completed": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "diverged": "FAILED",
    "out_of_memory": "FAILED",
    "failed": "FAILED",
}
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
            at, tags = _milliseconds(start), {tag: value, **tags}
            run = found[0] if found else client.create_run(experiment, start_time=at, tags=tags)
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
        # A search that is resumed after its end is the same run again.
        self._client().update_run(run, status="RUNNING")

    def _trial_started(self, event: Event, p: dict[str, Any]) -> None:
        run = self._trial_run(event, p)
        searched = {f"param/{name}": value for name, value in p["params"].items()}
        self._params(run, {**flatten(p["config"]), **searched})
        if not any(file.path == "config.json" for file in self._client().list_artifacts(run)):
            self._client().log_dict(run, p["config"], "config.json")
        tags = {"attempt": p["attempt"], "state": "running", "rung": 0}
        if p.get("terms"):  # changes of code, space or data were accepted
            tags["terms"] = p["terms"]
        self._tag(run, tags | ({"baseline": p["baseline"]} if p["baseline"] else {}))

    def _reported(self, event: Event, p: dict[str, Any]) -> None:
        run = self._trial_run(event, p)
        tags = {"rung": p["rung"], "images": p["report"]["images"]}
        decision = p.get("decision")
        self._report(run, p, p["value"], tags | ({"decision": decision} if decision else {}))

    def _repeated(self, event: Event, p: dict[str, Any]) -> None:
        """A run below the trial's, so that its metrics stay apart from those of the trial's own seed."""
        trial, repeat = self._trial_run(event, p), p["report"]["repeat"]
        tags = {
            "mlflow.parentRunId": trial,
            "mlflow.runName": f"repeat {repeat} of {_run_name(p['trial'], p.get('baseline'))}",
            "repeat": str(repeat),
        }
        name = f"{p['uid']}/{p['trial']}/{repeat}"
        run = self._run(p["study"], REPEAT_TAG, name, event.time, tags)
        try:
            self._report(run, p, None, {"state": "completed"})
        finally:  # also if a picture is rejected
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
        missing = sorted(values.keys() - finite.keys())
        self._tag(run, tags | ({"not_finite": ", ".join(missing)} if missing else {}))
        for name, path in report["artifacts"].items():
            if path.endswith(".png"):
                self._picture(run, name, self._place(p, path), step, at)

    def _trial_ended(self, event: Event, p: dict[str, Any]) -> None:
        from meanflow_tune.tracking.logged_model import log_student

        run = self._trial_run(event, p)
        self._tag(run, {"state": p["status"]} | ({"reason": p["reason"]} if p["reason"] else {}))
        if p["model"] is not None:
            tags = {TRIAL_TAG: f"{p['uid']}/{p['trial']}"}
            experiment = self._experiment(p["study"])
            folder = self._place(p, p["model"])
            log_student(self._client(), experiment, run, tags, folder, p["images"])
        self._end(run, RUN_STATUS[p["status"]], p["ended"] or event.time)

    def _trials_settled(self, event: Event, p: dict[str, Any]) -> None:
        """Ended trials as the study has them, one run each, whatever a suspended driver wrote late.

        This also updates the values of earlier trials after a change of the objective.
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
            mark = told.get("implausible")  # which events of earlier revisions lack
            if mark is None and IMPLAUSIBLE_TAG in kept.data.tags:
                self._client().delete_tag(kept.info.run_id, IMPLAUSIBLE_TAG)
            tags = _texts(told["tags"] | ({IMPLAUSIBLE_TAG: mark} if mark is not None else {}))
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
        self._metrics(run, p.get("metrics", {}), _milliseconds(event.time))
        for path in p["files"]:
            self._client().log_artifact(run, str(self._place(p, path)))
        self._end(run, RUN_STATUS[status], event.time)

    def _place(self, p: Mapping[str, Any], path: str) -> Path:
        return current_path(path, p["study"], self._storage)

    def _params(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        # config.json holds the whole of a value that is cut here.
        every = [Param(*item) for item in _texts(params).items()]
        for i in range(0, len(every), PARAMS_PER_BATCH):
            self._client().log_batch(run, params=every[i : i + PARAMS_PER_BATCH], synchronous=True)

    def _metrics(self, run: str, values: Mapping[str, float], at: int) -> None:
        from mlflow.entities import Metric

        finite = {mlflow_name(name): x for name, x in values.items() if math.isfinite(x)}
        metrics = [Metric(name, value, at, 0) for name, value in finite.items()]
        if metrics:
            self._client().log_batch(run, metrics=metrics, synchronous=True)

    def _tag(self, run: str, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        every = [RunTag(*item) for item in _texts(tags).items()]
        self._client().log_batch(run, tags=every, synchronous=True)

    def _end(self, run: str, status: str, at: float) -> None:
        self._client().set_terminated(run, status, end_time=_milliseconds(at))

    def _picture(self, run: str, name: str, path: Path, step: int, at: int) -> None:
        """Like `MlflowClient.log_image`, under a name that stays the same in a replay."""
        from PIL import Image

        same = uuid.uuid5(uuid.NAMESPACE_OID, f"{run}/{name}/{step}/{at}")
        stem = f"{name.replace('/', '~')}+step+{step}+timestamp+{at}+{same}"
        with tempfile.TemporaryDirectory() as folder:
            try:
                with Image.open(path) as image:
                    image.save(Path(folder) / f"{stem}.png")
                    small = image.convert("RGB")
                    small.thumbnail((THUMBNAIL, THUMBNAIL))
                    small.save(Path(folder) / f"{stem}+compressed.webp")
            except Exception as error:
                if is_full(error):
                    raise
                # Trying again would hold up all events behind this one.
                raise Rejected(f"the picture {path} cannot be read: {error}") from error
            self._client().log_artifacts(run, folder, "images")
        self._client().set_tag(run, "mlflow.loggedImages", "True", synchronous=True)


def _content(run: Any) -> tuple[int, str]:
    """Orders runs by how much was written to them; a doubled one is empty."""
    return len(run.data.params) + len(run.data.metrics) + len(run.data.tags), run.info.run_id


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Names and values as MLflow takes them."""
    return {mlflow_name(key): str(value)[:PARAM_LENGTH] for key, value in values.items()}


def mlflow_name(name: str) -> str:
    """`teacher_gap@1` is `teacher_gap/nfe_1`; any other character refused by MLflow is `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "/nfe_"))


def _run_name(trial: str, baseline: str | None) -> str:
    """`trial 00007 backward`; the number is zero-padded, so that names sort."""
    *part, number = trial.split("/")
    words = [*(part or ["trial"]), f"{int(number):05d}", *([baseline] if baseline else [])]
    return " ".join(words)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
