"""Replay to a real MLflow server that is down, hangs, is restarted, or comes back with another database."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.records import Job, Outcome
from meanflow_tune.tracking.events import Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.outbox import Outbox
from meanflow_tune.tracking.replay import Replayer
from tests.support.servers.listeners import answering
from tests.support.servers.mlflow import PATIENCE, MlflowServer
from tests.support.stories import STUDY, make_record, make_report, make_student, small_config

pytestmark = pytest.mark.slow
TRIALS = 11


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server(running: MlflowServer) -> Iterator[MlflowServer]:
    """Up and empty, whatever the test before did."""
    yield running
    running.empty()


def replay(outbox: Outbox, server: MlflowServer, storage: Path, said: list[str]) -> Replayer:
    sink = MlflowSink(storage, server.uri, say=said.append)
    return Replayer(outbox, sink, first_delay=0.05, longest_delay=0.2, say=said.append)


def begin(tracker: Tracker) -> None:
    tracker.search_started({"goal": "Is all of it there?"})


def trial(tracker: Tracker, number: int, rungs: int = 2) -> None:
    """A trial that was started and has reached `rungs` rungs."""
    tracker.trial_started(
        Job(STUDY, number, small_config(number), "/nowhere", 0, 1), make_record(number)
    )
    for rung in range(rungs):
        report_rung(tracker, number, rung)


def report_rung(tracker: Tracker, number: int, rung: int) -> None:
    reports = tuple(make_report(32 * k, 0.1 * number + 1 / k) for k in range(1, rung + 2))
    tracker.reported(make_record(number, "running", reports), reports[-1])


def finish(tracker: Tracker, number: int, model: Path | None = None) -> None:
    reports = tuple(make_report(32 * k, 0.1 * number + 1 / k) for k in (1, 2))
    tracker.ended(make_record(number, "completed", reports), Outcome("completed"), model)


def failing(replayer: Replayer) -> str:
    """The error, once there is one."""
    end = time.monotonic() + PATIENCE
    while (error := replayer.status().error) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    return error


def tree(uri: str, experiment: str = STUDY) -> dict[str, Any]:
    """The runs by name, doubles included: parameters, steps of the objective, state, models."""
    from mlflow import MlflowClient

    api = MlflowClient(uri)
    number = api.get_experiment_by_name(experiment).experiment_id
    runs = api.search_runs([number], order_by=["start_time"])
    assert len({run.info.run_name for run in runs}) == len(runs), "doubled runs"
    parents = {run.info.run_id for run in runs}
    return {
        run.info.run_name: {
            "params": len(run.data.params),
            "steps": [
                metric.step for metric in api.get_metric_history(run.info.run_id, "objective")
            ],
            "state": run.data.tags["state"],
            "parent": run.data.tags.get("mlflow.parentRunId", next(iter(parents))) in parents,
            "models": len(run.outputs.model_outputs) if run.outputs else 0,
        }
        for run in runs
    }


def assert_whole(found: dict[str, Any], trials: int = TRIALS) -> None:
    names = [f"trial {number:05d}" for number in range(trials)]
    assert found.keys() == {STUDY, *names}
    few = min(found[name]["params"] for name in names)
    assert few == max(found[name]["params"] for name in names) > 20
    assert all(found[name]["steps"] == [32, 64] for name in names)
    assert {found[name]["state"] for name in names} == {"completed"}
    assert all(run["parent"] for run in found.values())


def test_a_stranger_at_the_address_is_no_reason_to_give_an_event_up(tmp_path: Path) -> None:
    """A page, an answer in JSON that is none of MLflow's, and an error page each stand in its place."""
    for index, (status, body) in enumerate(
        ((400, b"bad"), (404, b"not here"), (200, b"<html>Welcome</html>"), (200, b"[]"))
    ):
        outbox = Outbox(tmp_path / str(index))
        begin(Tracker(outbox, STUDY))
        with (
            answering(status, body) as port,
            Replayer(outbox, MlflowSink(tmp_path, f"http://127.0.0.1:{port}")) as replayer,
        ):
            failing(replayer)
            assert (replayer.status().pending, replayer.status().rejected) == (1, 0)


def test_a_server_that_came_back_empty_gets_all_of_it_again(
    server: MlflowServer, tmp_path: Path
) -> None:
    """It kept the runs of later events only, two of them without parameters, and said nothing."""
    outbox, said = Outbox(tmp_path), []
    tracker = Tracker(outbox, STUDY)
    model = make_student(tmp_path / "model")
    with replay(outbox, server, tmp_path, said) as replayer:
        begin(tracker)
        for number in range(5):
            trial(tracker, number, 2 if number < 3 else 1)
        for number in range(3):
            finish(tracker, number, model if number == 0 else None)
        assert replayer.drain(PATIENCE) == 0
        server.empty()
        for number in (3, 4):  # were running meanwhile
            report_rung(tracker, number, 1)
            finish(tracker, number)
        for number in range(5, TRIALS):
            trial(tracker, number)
            finish(tracker, number)
        tracker.search_ended({"status": "completed"})
        assert replayer.drain(PATIENCE) == 0
        assert len(tree(server.uri)) == TRIALS + 1 - 3
        assert tree(server.uri)["trial 00003"]["params"] == 0
        replayer.audit()
        assert replayer.drain(PATIENCE) == 0
        assert replayer.status().rejected == 0
    assert_whole(tree(server.uri))
    assert tree(server.uri)["trial 00000"]["models"] == 1
    note = f"MLflow: 3 of {TRIALS + 1} runs of this study are missing, "
    assert [line for line in said if line.startswith(note)], said
    # Nothing is left to do, in this driver or the next one.
    said.clear()
    with replay(outbox, server, tmp_path, said) as replayer:
        assert replayer.drain(PATIENCE) == 0
    assert said == []
    assert_whole(tree(server.uri))


def test_an_empty_server_at_the_start_of_a_resume(server: MlflowServer, tmp_path: Path) -> None:
    outbox, said = Outbox(tmp_path), []
    tracker = Tracker(outbox, STUDY)
    begin(tracker)
    for number in range(2):
        trial(tracker, number)
        finish(tracker, number)
    with replay(outbox, server, tmp_path, said) as replayer:
        assert replayer.drain(PATIENCE) == 0
    server.empty()
    with replay(outbox, server, tmp_path, said) as replayer:
        assert replayer.drain(PATIENCE) == 0
    assert_whole(tree(server.uri), 2)
    assert said == ["MLflow: 3 of 3 runs of this study are missing; they are sent again"]


def test_a_server_that_stops_hangs_and_is_restarted_gets_everything_once(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    outbox, said = Outbox(tmp_path), []
    tracker = Tracker(outbox, STUDY)
    begin(tracker)
    with replay(outbox, server, tmp_path, said) as replayer:
        assert replayer.drain(PATIENCE) == 0
        server.stop()
        trial(tracker, 0)
        assert str(server.port) in failing(replayer)
        assert replayer.status().pending == 3
        server.start()
        assert replayer.drain(PATIENCE) == 0
        server.hang()
        finish(tracker, 0)
        trial(tracker, 1)
        began = time.monotonic()
        assert "timed out" in failing(replayer).lower() or "timeout" in failing(replayer).lower()
        assert time.monotonic() - began < 30
        server.wake()
        finish(tracker, 1)
        assert replayer.drain(PATIENCE) == 0
        assert replayer.status().rejected == 0
    assert_whole(tree(server.uri), 2)


def test_another_uri_gets_the_whole_tree_and_the_first_one_no_doubles(
    server: MlflowServer, tmp_path: Path
) -> None:
    """First an address where nothing answers, then the right one, then another database, and back."""
    outbox, said = Outbox(tmp_path), []
    tracker = Tracker(outbox, STUDY)
    begin(tracker)
    trial(tracker, 0)
    with Replayer(outbox, MlflowSink(tmp_path, "http://127.0.0.1:9")) as replayer:
        failing(replayer)
        assert replayer.status().pending == 4 - 0
    with replay(outbox, server, tmp_path, said) as replayer:
        assert replayer.drain(PATIENCE) == 0
    finish(tracker, 0)
    with Replayer(outbox, MlflowSink(tmp_path)) as replayer:
        assert replayer.drain(PATIENCE) == 0
    assert_whole(tree(f"sqlite:///{tmp_path}/mlflow.db"), 1)
    with replay(outbox, server, tmp_path, said) as replayer:
        assert replayer.status().pending == 1
        assert replayer.drain(PATIENCE) == 0
    assert_whole(tree(server.uri), 1)
    assert said == []


def test_experiments_that_were_renamed_deleted_or_named_alike(
    server: MlflowServer, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    said: list[str] = []
    api = MlflowClient(server.uri)
    outboxes = [Outbox(tmp_path / name) for name in ("one", "two")]
    for outbox in outboxes:
        tracker = Tracker(outbox, STUDY)
        begin(tracker)
        trial(tracker, 0)
        with replay(outbox, server, tmp_path, said) as replayer:
            assert replayer.drain(PATIENCE) == 0
    suffixed = f"{STUDY}-{outboxes[1].uid[:8]}"
    assert [line for line in said if suffixed in line and "another study" in line], said
    assert len(tree(server.uri)) == len(tree(server.uri, suffixed)) == 2

    number = api.get_experiment_by_name(STUDY).experiment_id
    api.rename_experiment(number, "the good one")
    finish(Tracker(outboxes[0], STUDY), 0)
    with replay(outboxes[0], server, tmp_path, said) as replayer:
        assert replayer.drain(PATIENCE) == 0
        assert_whole_one(tree(server.uri, "the good one"))
        # Deleted under a running driver.
        api.delete_experiment(number)
        trial(Tracker(outboxes[0], STUDY), 1)
        finish(Tracker(outboxes[0], STUDY), 1)
        assert replayer.drain(PATIENCE) == 0
        assert replayer.status().rejected == 0
    assert api.get_experiment(number).lifecycle_stage == "active"
    assert_whole(tree(server.uri, "the good one"), 2)
    assert [line for line in said if "was deleted; it is restored" in line]
    assert len(api.search_experiments()) == 3  # with MLflow's own


def assert_whole_one(found: dict[str, Any]) -> None:
    assert found["trial 00000"]["state"] == "completed"
    assert len(found) == 2
