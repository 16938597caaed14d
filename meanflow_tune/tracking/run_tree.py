"""The runs of a study in MLflow: experiment = study, run = search, child run = trial.

Every effect is idempotent: runs are looked up by a tag before they are made, metrics keep the time at
which they were measured, artifacts keep their names. MLflow has no fencing, so a driver that was
suspended during a write, and wakes after another took over, still completes that write: what it undid
or doubled is corrected when the search ends (`trials_settled`).
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from meanflow_tune.config.overrides import flatten
from meanflow_tune.curves import CURVE, CurvePoint, read_curve
from meanflow_tune.files import is_below
from meanflow_tune.tracking.mlflow_store import current_path
from meanflow_tune.tracking.models.registry import Registry
from meanflow_tune.tracking.outbox import Event
from meanflow_tune.tracking.replay import Rejected
from meanflow_tune.tracking.run_names import milliseconds, model_name, run_name, tag_texts
from meanflow_tune.tracking.run_writer import RunWriter
from meanflow_tune.tracking.runs_view import VIEW_TAG, view_state

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
HELD_OUT = "held_out"  # the context of the data that metrics compare with
SEARCH_TAG = "meanflow_tune.search"
TRIAL_TAG = "meanflow_tune.trial"
IMPLAUSIBLE_TAG = "implausible"  # of a completed trial whose training failed: in what way
REPEAT_TAG = "meanflow_tune.repeat"
VERDICT_TAG = "verdict"  # of fresh or further seeds against the reference
NOTE_TAG = "mlflow.note.content"
MARKS = {"implausible": IMPLAUSIBLE_TAG, "verdict": VERDICT_TAG}
PAGE = 1000  # runs per answer
CONFIRMED = "/"  # in the name of a trial of the confirmation: `confirm/3`
# What was stopped at a rung is no failure; its tag `state` says that it was stopped.
RUN_STATUS = {
    "completed": "FINISHED",
    "pruned": "FINISHED",
    "paused": "FINISHED",
    "interrupted": "KILLED",
    "diverged": "FAILED",
    "out_of_memory": "FAILED",
    "failed": "FAILED",
}


class FindRun(Protocol):
    """The id of the run of a study with this tag and value, made with `tags` if there is none."""

    def __call__(
        self, study: str, tag: str, value: str, start: float, tags: Mapping[str, str]
    ) -> str: ...


class RunTree:
    """A handler for each kind of event.

    storage: the folder of the studies; client: for one call; experiment: the id of a study's; forget: a
    run that `find` knows; repair: makes a damaged export again.
    """

    def __init__(
        self,
        storage: Path,
        client: Callable[[], "MlflowClient"],
        experiment: Callable[[str], str],
        find: FindRun,
        forget: Callable[[str, str], None],
        repair: Callable[[Path, str], None],
    ) -> None:
        self._storage, self._client, self._experiment = storage, client, experiment
        self._find, self._forget, self._repair = find, forget, repair
        self._write = RunWriter(client)
        self.handlers: dict[str, Callable[[Event, dict[str, Any]], None]] = {
            "search_started": self._search_started,
            "trial_started": self._trial_started,
            "reported": self._reported,
            "repeated": self._repeated,
            "trial_paused": self._trial_paused,
            "trial_ended": self._trial_ended,
            "model_exported": self._model_exported,
            "models_registered": Registry(client, self._model_of).apply,
            "trials_settled": self._trials_settled,
            "search_ended": self._search_ended,
        }

    def _search_run(self, event: Event, p: Mapping[str, Any]) -> str:
        tags = {"mlflow.runName": p["study"]}
        return self._find(p["study"], SEARCH_TAG, p["uid"], event.time, tags)

    def _trial_run(self, event: Event, p: Mapping[str, Any]) -> str:
        tags = {
            "mlflow.parentRunId": self._search_run(event, p),
            "mlflow.runName": run_name(p["trial"], p.get("baseline")),
            "trial": p["trial"],
        }
        start = p.get("started") or event.time
        return self._find(p["study"], TRIAL_TAG, f"{p['uid']}/{p['trial']}", start, tags)

    def _search_started(self, event: Event, p: dict[str, Any]) -> None:
        run, facts = self._search_run(event, p), p["facts"]
        words = {name: facts[name] for name in ("goal", "objective", "space") if name in facts}
        self._write.tag(run, {"state": "running", **words, **p.get("source", {})})
        self._write.settings(run, facts)
        experiment = self._experiment(p["study"])
        if facts.get("goal"):
            note = (
                f"**{p['study']}**: {facts['goal']}\n\nThe run of this name describes the search."
            )
            self._client().set_experiment_tag(experiment, NOTE_TAG, note)
        if p.get("view"):
            self._client().set_experiment_tag(experiment, VIEW_TAG, view_state(p["view"]))
        # A search that is resumed after its end is the same run again.
        self._client().update_run(run, status="RUNNING")

    def _trial_started(self, event: Event, p: dict[str, Any]) -> None:
        run = self._trial_run(event, p)
        self._write.params(run, trial_params(p))
        self._write.datasets(run, p.get("datasets", ()))
        if not any(file.path == "config.json" for file in self._client().list_artifacts(run)):
            self._client().log_dict(run, p["config"], "config.json")
        if p["attempt"]:  # after a pause, which ended the run
            self._client().update_run(run, status="RUNNING")
        tags = {"attempt": p["attempt"], "state": "running", "rung": 0, **p.get("source", {})}
        if p.get("origin"):  # which events of earlier revisions lack
            tags["kind"] = p["origin"]
        if p.get("terms"):  # changes of code, space or data were accepted
            tags["terms"] = p["terms"]
        if CONFIRMED in p["trial"]:  # whose name says what it trains
            tags |= {"kind": "confirmation", "confirms": p["baseline"]}
        elif p["baseline"]:
            tags["baseline"] = p["baseline"]
        self._write.tag(run, tags)

    def _reported(self, event: Event, p: dict[str, Any]) -> None:
        run = self._trial_run(event, p)
        tags = {"rung": p["rung"], "images": p["report"]["images"]}
        decision = p.get("decision")
        more = {"decision": decision} if decision else {}
        self._report(run, p, p["value"], tags | more)

    def _repeated(self, event: Event, p: dict[str, Any]) -> None:
        """A run below the trial's, so that its metrics stay apart from those of the trial's own seed."""
        trial, repeat = self._trial_run(event, p), p["report"]["repeat"]
        tags = {
            "mlflow.parentRunId": trial,
            "mlflow.runName": f"repeat {repeat} of {run_name(p['trial'], p.get('baseline'))}",
            "repeat": str(repeat),
        }
        name = f"{p['uid']}/{p['trial']}/{repeat}"
        end, seconds = p["report"]["time"], p["report"]["cost"].get("wall_seconds", 0.0)
        run = self._find(p["study"], REPEAT_TAG, name, end - seconds, tags)
        try:
            self._report(run, p, None, {"state": "completed"})
        finally:  # also if a picture is rejected
            self._write.end(run, "FINISHED", end)

    def _trial_paused(self, event: Event, p: dict[str, Any]) -> None:
        run = self._trial_run(event, p)
        self._write.tag(run, {"state": "paused"})
        self._write.end(run, RUN_STATUS["paused"], event.time, p.get("seconds"))

    def _report(
        self, run: str, p: Mapping[str, Any], value: float | None, tags: dict[str, Any]
    ) -> None:
        report = p["report"]
        at, step = milliseconds(report["time"]), report["images"]
        missing = self._write.metrics(run, report_metrics(p, value), at, step)
        self._write.tag(run, tags | ({"not_finite": ", ".join(missing)} if missing else {}))
        for name, path in report["artifacts"].items():
            if name == CURVE:
                with contextlib.suppress(Rejected):  # it is only looked at
                    self._write.curve(run, _points(self._place(p, path)))
            if path.endswith(".png"):
                self._write.picture(run, name, self._place(p, path), step, at)

    def _trial_ended(self, event: Event, p: dict[str, Any]) -> None:
        run = self._trial_run(event, p)
        self._write.tag(
            run, {"state": p["status"]} | ({"reason": p["reason"]} if p["reason"] else {})
        )
        if p["model"] is not None:  # an event of an earlier revision
            self._model_exported(event, p)
        self._write.end(run, RUN_STATUS[p["status"]], p["ended"] or event.time, p.get("seconds"))

    def _model_exported(self, event: Event, p: dict[str, Any]) -> None:
        """Log the student, and give it the metrics of its trial's last rung on the held-out data."""
        from meanflow_tune.tracking.models.logged_model import log_student

        run, experiment = self._trial_run(event, p), self._experiment(p["study"])
        tags = {TRIAL_TAG: f"{p['uid']}/{p['trial']}"}
        name, folder = model_name(p["study"], p["trial"]), self._place(p, p["model"])
        step, repair = p["images"], self._repair
        model = log_student(self._client(), experiment, run, tags, name, folder, step, repair)
        report = p.get("report")
        if report is not None:
            held_out = [each for each in p["datasets"] if each["context"] == HELD_OUT]
            values = {**report["metrics"]}
            values |= {"objective": p["objective"]} if p["objective"] is not None else {}
            at, step = milliseconds(report["time"]), report["images"]
            self._write.model_metrics(run, model, values, at, step, held_out)

    def _model_of(self, study: str, uid: str, trial: str) -> Any:
        """The logged model of a trial; None where it has none."""
        from meanflow_tune.tracking.models.logged_model import logged_model

        return logged_model(self._client(), self._experiment(study), {TRIAL_TAG: f"{uid}/{trial}"})

    def _trials_settled(self, event: Event, p: dict[str, Any]) -> None:
        """Ended trials as the study has them, one run each, whatever a suspended driver wrote late.

        This also updates the values of earlier trials after a change of the objective.
        """
        experiment = self._experiment(p["study"])
        runs: dict[tuple[str, str], list[Any]] = {}
        for run in every_run(self._client, experiment):
            for tag in (SEARCH_TAG, TRIAL_TAG, REPEAT_TAG):
                value = run.data.tags.get(tag, "")
                if value.partition("/")[0] == p["uid"]:
                    runs.setdefault((tag, value), []).append(run)
        for (tag, value), same in runs.items():
            kept = most_written(same)
            for run in (each for each in same if each is not kept):
                self._client().delete_run(run.info.run_id)
                self._forget(p["study"], value)
            trial = value.partition("/")[2]
            told = p["trials"].get(trial.rpartition("/")[0] if tag == REPEAT_TAG else trial)
            if told is None or tag == SEARCH_TAG:
                continue
            if tag == REPEAT_TAG:
                self._mark(kept, {"verdict": told.get("verdict")})
                continue
            self._mark(kept, told, told["tags"])
            status = RUN_STATUS[told["tags"]["state"]]
            if kept.info.status != status:
                ended = told["ended"] or event.time
                self._write.end(kept.info.run_id, status, ended, told.get("seconds"))
            value = told["objective"]
            if value is not None and kept.data.metrics.get("objective") not in (None, value):
                at, step = milliseconds(event.time), told["tags"]["images"]
                self._client().log_metric(kept.info.run_id, "objective", value, at, step)

    def _mark(self, run: Any, told: Mapping[str, Any], tags: Mapping[str, Any] = {}) -> None:
        """Set `tags` and the marks that `told` has; remove those that it no longer has."""
        # Events of earlier revisions lack some.
        marks = {tag: told.get(name) for name, tag in MARKS.items() if name in told}
        for tag in [tag for tag, value in marks.items() if value is None]:
            if tag in run.data.tags:
                self._client().delete_tag(run.info.run_id, tag)
        texts = tag_texts({**tags, **{tag: x for tag, x in marks.items() if x is not None}})
        if not texts.items() <= run.data.tags.items():
            self._write.tag(run.info.run_id, texts)

    def _search_ended(self, event: Event, p: dict[str, Any]) -> None:
        run, summary = self._search_run(event, p), dict(p["summary"])
        status = summary.pop("status")
        note = {NOTE_TAG: p["description"]} if p.get("description") else {}
        self._write.tag(run, {"state": status, **summary, **note})
        if note:
            self._client().set_experiment_tag(
                self._experiment(p["study"]), NOTE_TAG, note[NOTE_TAG]
            )
        self._write.metrics(run, p.get("metrics", {}), milliseconds(event.time))
        self._write.end(run, RUN_STATUS[status], event.time)
        for path in p["files"]:  # last, since one that is gone is refused
            self._client().log_artifact(run, str(self._place(p, path)))

    def _place(self, p: Mapping[str, Any], path: str) -> Path:
        """Where a file of the study is now. Raises Rejected for one that is not in its storage folder."""
        place = current_path(path, p["study"], self._storage)
        if not is_below(place, self._storage, self._storage / p["study"]):
            raise Rejected(f"{path} is not in the storage folder {self._storage}")
        return place


def trial_params(p: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a trial's run, from its event `trial_started`."""
    searched = {f"param/{name}": value for name, value in p["params"].items()}
    return {**flatten(p["config"]), **searched}


def report_metrics(p: Mapping[str, Any], value: float | None) -> dict[str, float]:
    """The metrics of a report, from its event; value: of the objective, if it is a single one.

    The objective of a confirmation has a name of its own: it is measured on other latents, so that a table
    sorted by the objective of the search must not mix the two.
    """
    report = p["report"]
    metrics = {**report["metrics"], **{f"cost/{k}": v for k, v in report["cost"].items()}}
    values = p.get("values") or ()
    name = "confirmed_objective" if CONFIRMED in p["trial"] else "objective"
    if len(values) > 1:  # in the order of the parameter `objective`
        metrics |= {f"{name}/{place}": x for place, x in enumerate(values, start=1)}
    return metrics | ({name: value} if value is not None else {})


def _points(path: Path) -> list[CurvePoint]:
    """Of a curve that may have been deleted or damaged, and is only to be looked at."""
    try:
        return read_curve(path)
    except (OSError, ValueError) as error:
        log.warning("the curve %s is left out: %s", path, error)
        return []


def most_written(runs: Iterable[Any]) -> Any:
    """The one of several runs with the same tag that counts, wherever one is looked for.

    A server that answers too late makes a run twice: what is written to one of them must not be looked for
    in the other. The one with the most in it is also ahead of the others from then on.
    """

    def content(run: Any) -> tuple[int, int, str]:
        metrics = run.data.to_proto().metrics  # `data.metrics` has no steps
        count = len(run.data.params) + len(run.data.tags) + len(metrics)
        return count, sum(metric.step for metric in metrics), run.info.run_id

    return max(runs, key=content)


def every_run(
    client: Callable[[], "MlflowClient"], experiment: str, deleted: bool = False
) -> Iterator[Any]:
    """All runs of an experiment, page by page. client: for one call; deleted: those as well."""
    from mlflow.entities import ViewType

    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    token = None
    while True:
        page = client().search_runs([experiment], "", view, PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
