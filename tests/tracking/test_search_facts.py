"""What MLflow shows of a search as a whole: its figures, and trials whose training failed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from meanflow_tune.files import mlflow_uri
from meanflow_tune.tracking.events import Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.outbox import Event, Outbox
from tests.support.stories import STUDY, make_record, make_report

pytestmark = pytest.mark.slow  # MLflow creates its database
WHY = "worse than the teacher's own Euler steps by teacher_gap@1"


def events(outbox: Outbox) -> Iterator[Event]:
    offset = 0
    while (event := outbox.read(offset, 0)) is not None:
        yield event
        offset = event.end


def test_figures_and_marks_of_a_search(tmp_path: Path) -> None:
    outbox, sink = Outbox(tmp_path / "outbox"), MlflowSink(tmp_path)
    tracker = Tracker(outbox, STUDY)
    records = [make_record(n, "completed", (make_report(64, 0.25),)) for n in range(2)]
    tracker.search_started({"goal": "Does it help?"})
    tracker.catch_up(records)
    tracker.settled(records, {1: WHY})
    facts = {"status": "completed", "best_trial": 0, "best_trial_is": "proposed"}
    figures = {"held_out/teacher/sliced_wasserstein": 0.1, "held_out/data/far": float("inf")}
    tracker.search_ended(facts, metrics=figures)
    told = list(events(outbox))
    for _ in range(2):  # a replay
        for event in told:
            sink.apply(event)
    client = MlflowClient(mlflow_uri(tmp_path))
    experiment = client.get_experiment_by_name(STUDY)
    assert experiment is not None
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    search = runs[STUDY].data
    assert search.metrics == {"held_out/teacher/sliced_wasserstein": 0.1}
    assert search.tags["best_trial_is"] == "proposed"
    assert runs["trial 00001"].data.tags["implausible"] == WHY
    assert "implausible" not in runs["trial 00000"].data.tags
    # A longer search may move the median by which it was judged.
    tracker.settled(records)
    *_, last = events(outbox)
    sink.apply(last)
    again = client.get_run(runs["trial 00001"].info.run_id)
    assert "implausible" not in again.data.tags
