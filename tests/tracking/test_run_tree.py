"""What a run of a trial shows besides its rungs, against a real MLflow; each event is applied twice."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from meanflow_tune.curves import CURVE, CurvePoint, write_curve
from meanflow_tune.tracking.events import Origin, Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.outbox import Outbox
from tests.support.stories import START, STUDY, make_record, make_report

pytestmark = pytest.mark.slow  # MLflow creates its database
SHARED = {"digest": "0123", "source_type": "meanflow_tune", "source": "{}", "profile": "{}"}
DATASETS = [
    {"name": "digits train", "context": "train", **SHARED},
    {"name": "digits held out", "context": "held_out", **SHARED},
]
POINTS = [CurvePoint(8 * n, START + n, 1.0 / n, 1e-3, 2.0, {"load": 0.5}) for n in range(1, 4)]


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> MlflowSink:
    return MlflowSink(tmp_path_factory.getbasetemp())  # each test's files are below it


class Told:
    """A tracker whose events reach MLflow at once, each twice."""

    def __init__(self, folder: Path, sink: MlflowSink, study: str) -> None:
        self.outbox, self.sink, self.study = Outbox(folder), sink, study
        self.tracker = Tracker(
            self.outbox, study, Origin({"mlflow.source.name": "tune.py"}, DATASETS)
        )
        self._offset = self._seq = 0

    def flush(self) -> MlflowClient:
        while (event := self.outbox.read(self._offset, self._seq)) is not None:
            for _ in range(2):
                self.sink.apply(event)
            self._offset, self._seq = event.end, self._seq + 1
        return self.sink._client()

    def runs(self) -> dict[str, Any]:
        api = self.flush()
        experiment = api.get_experiment_by_name(self.study)
        assert experiment is not None
        return {r.info.run_name: r for r in api.search_runs([experiment.experiment_id])}


@pytest.fixture
def told(sink: MlflowSink, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Told]:
    told = Told(tmp_path, sink, f"{STUDY}-{request.node.name}")
    told.tracker.search_started({"goal": "?", "trials": 8})
    yield told
    told.outbox.close()


def test_data_sets_source_and_curve_of_a_trial(told: Told, tmp_path: Path) -> None:
    write_curve(tmp_path / "curve.json", POINTS)
    report = make_report(32, 0.5, {CURVE: str(tmp_path / "curve.json")})
    told.tracker.catch_up([make_record(0, "paused", (report,), study=told.study)])
    run = told.runs()["trial 00000"]
    inputs = {
        (each.dataset.name, each.dataset.digest, each.tags[0].value)
        for each in run.inputs.dataset_inputs
    }
    assert inputs == {("digits train", "0123", "train"), ("digits held out", "0123", "held_out")}
    assert len(run.inputs.dataset_inputs) == 2
    assert run.data.tags["mlflow.source.name"] == "tune.py"
    history = told.flush().get_metric_history(run.info.run_id, "train/loss")
    seen = [(m.step, m.value, m.timestamp) for m in history]
    assert seen == [(p.images, p.loss, round(1000 * p.time)) for p in POINTS]
    assert run.data.metrics["system/load"] == 0.5


def test_a_curve_that_is_gone_costs_no_rung(told: Told, tmp_path: Path) -> None:
    report = make_report(32, 0.5, {CURVE: str(tmp_path / "gone.json")})
    told.tracker.catch_up([make_record(0, reports=(report,), study=told.study)])
    assert told.runs()["trial 00000"].data.metrics["teacher_gap/nfe_1"] == 0.5


def test_a_pause_ends_a_run_and_a_promotion_opens_it_again(told: Told) -> None:
    first = replace(make_report(32, 0.5), cost={"wall_seconds": 7.0})
    paused = make_record(0, "paused", (first,), study=told.study)
    told.tracker.catch_up([paused])
    run = told.runs()["trial 00000"]
    assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "paused")
    assert run.info.end_time - run.info.start_time == 7000, "the time that it trained"
    told.tracker.catch_up([replace(paused, status="running", attempt=1)])
    assert told.runs()["trial 00000"].info.status == "RUNNING"
    last = replace(make_report(64, 0.25), cost={"wall_seconds": 20.0})
    done = replace(make_record(0, "completed", (first, last), study=told.study), attempt=1)
    told.tracker.catch_up([done])
    run = told.runs()["trial 00000"]
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 20_000


def test_verdicts_come_and_go(told: Told) -> None:
    repeat = replace(make_report(64, 0.4), repeat=1)
    done = make_record(0, "completed", (make_report(64, 0.5),), study=told.study)
    done = replace(done, repeats=(repeat,))
    told.tracker.catch_up([done])
    told.tracker.settled([done], verdicts={0: "better"})
    for name in ("trial 00000", "repeat 1 of trial 00000"):
        assert told.runs()[name].data.tags["verdict"] == "better"
    told.tracker.settled([done])
    for name in ("trial 00000", "repeat 1 of trial 00000"):
        assert "verdict" not in told.runs()[name].data.tags


def test_settings_that_change_keep_their_first_value(told: Told) -> None:
    told.tracker.search_started({"goal": "?", "trials": 12})
    run = told.runs()[told.study]
    assert run.data.params["trials"] == "8"
    assert run.data.tags["changed/trials"] == "8 -> 12"
    told.tracker.search_started({"goal": "?", "trials": 8})
    assert "changed/trials" not in told.runs()[told.study].data.tags


def test_the_description_stands_with_search_and_experiment(told: Told) -> None:
    text = "**It helps.**\n\n| a | b |"
    told.tracker.search_ended({"status": "completed"}, description=text)
    assert told.runs()[told.study].data.tags["mlflow.note.content"] == text
    experiment = told.flush().get_experiment_by_name(told.study)
    assert experiment is not None
    assert experiment.tags["mlflow.note.content"] == text
