"""The sink against a real MLflow on SQLite. Slow: creating the database alone takes ten seconds."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meanflow_tune.checksums import write_checked
from meanflow_tune.config.overrides import flatten
from meanflow_tune.records import Job, Outcome, Report
from meanflow_tune.search.errors import LeaseLost
from meanflow_tune.student_files import WEIGHTS
from meanflow_tune.tracking.events import Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.mlflow_store import (
    default_artifacts,
    default_uri,
    ensure_database,
)
from meanflow_tune.tracking.outbox import Event, Outbox
from meanflow_tune.tracking.replay import Rejected, Replayer
from tests.support.paths import ROOT
from tests.support.stories import START, STUDY, make_record, make_report, small_config, tell

pytestmark = pytest.mark.slow
PATIENCE = 120.0


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    ensure_database(default_uri(folder))
    return folder / "mlflow.db"


@pytest.fixture
def storage(empty_database: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "storage"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


def events(outbox: Outbox) -> Iterator[Event]:
    offset = 0
    while (event := outbox.read(offset, 0)) is not None:
        yield event
        offset = event.end


def client(storage: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(default_uri(storage))


def picture_of(storage: Path) -> dict[str, Any]:
    """All that a person sees in MLflow, without what is drawn anew in each database (run ids)."""
    api = client(storage)
    experiment = api.get_experiment_by_name(STUDY)
    out: dict[str, Any] = {}
    for run in api.search_runs([experiment.experiment_id], order_by=["start_time"]):
        names = [file.path for file in api.list_artifacts(run.info.run_id)]
        names += [file.path for file in api.list_artifacts(run.info.run_id, "images")]
        parent = run.data.tags.pop("mlflow.parentRunId", None)
        out[run.info.run_name] = {
            "parent": parent and api.get_run(parent).info.run_name,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": run.data.tags,
            "metrics": {
                name: [(m.step, m.value, m.timestamp) for m in history]
                for name in run.data.metrics
                for history in [api.get_metric_history(run.info.run_id, name)]
            },
            "artifacts": sorted(re.sub(r"[0-9a-f-]{36}", "ID", name) for name in names),
            "models": [m.step for m in run.outputs.model_outputs] if run.outputs else [],
        }
    models = api.search_logged_models([experiment.experiment_id])
    out["models"] = [(model.name, str(model.status)) for model in models]
    return out


def test_a_search_is_one_tree_of_runs(storage: Path, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    tell(Tracker(outbox, STUDY), storage / "files")
    with Replayer(outbox, MlflowSink(storage)) as replayer:
        assert replayer.drain(PATIENCE) == 0
        assert replayer.status().rejected == 0
    seen = picture_of(storage)
    assert seen.keys() == {STUDY, "trial 00000 backward", "trial 00001", "confirm 00000", "models"}
    search, done = seen[STUDY], seen["trial 00000 backward"]
    pruned, diverged = seen["trial 00001"], seen["confirm 00000"]
    assert [run["parent"] for run in (search, done, pruned, diverged)] == [
        None,
        STUDY,
        STUDY,
        STUDY,
    ]
    states = [(run["status"], run["tags"]["state"]) for run in (search, done, pruned, diverged)]
    assert states == [
        ("FINISHED", "completed"),
        ("FINISHED", "completed"),
        ("FINISHED", "pruned"),
        ("FAILED", "diverged"),
    ]
    assert search["params"]["objective.combine"] == "mean"
    assert search["tags"]["goal"] == "Does it help?"
    assert search["tags"]["best"] == "0"
    assert search["artifacts"] == ["table.txt"]
    assert pruned["tags"]["reason"] == "0.4 is not among the best third"
    assert done["tags"]["baseline"] == "backward"
    assert (done["tags"]["rung"], done["tags"]["images"], done["tags"]["attempt"]) == (
        "2",
        "64",
        "0",
    )
    assert done["metrics"] == {
        "objective": [(step, value, ms(step)) for step, value in ((32, 0.5), (64, 0.25))],
        "teacher_gap/nfe_1": [(step, value, ms(step)) for step, value in ((32, 0.5), (64, 0.25))],
        "teacher_gap/nfe_4": [(step, value, ms(step)) for step, value in ((32, 0.25), (64, 0.125))],
        "loss/backward": [(step, 3.0, ms(step)) for step in (32, 64)],
        "cost/cpu_seconds": [(step, step / 10, ms(step)) for step in (32, 64)],
        "cost/step_ms": [(step, 2.5, ms(step)) for step in (32, 64)],
    }
    config = {name: str(value)[:6000] for name, value in flatten(small_config(0)).items()}
    assert config.items() <= done["params"].items()
    assert done["params"]["param/sampler/kind"] == "uniform"
    assert done["models"] == [64]
    assert seen["models"] == [("toy-trial-00000", "READY")]
    assert "config.json" in done["artifacts"]
    assert sum("step+32" in name for name in done["artifacts"]) == 2
    assert done["times"] == (round(START * 1000), round((START + 100) * 1000))


def ms(images: int) -> int:
    return round((START + images) * 1000)


def test_pictures_are_named_as_mlflow_names_them(storage: Path, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    tell(Tracker(outbox, STUDY), storage / "files")
    sink = MlflowSink(storage)
    for event in events(outbox):
        sink.apply(event)
    api = client(storage)
    experiment = api.get_experiment_by_name(STUDY).experiment_id
    run = api.search_runs([experiment], "tags.trial = '0'", order_by=["start_time"])[0]
    other = api.create_run(experiment)
    pixels = np.zeros((8, 8), dtype=np.uint8)
    for step in (32, 64):
        api.log_image(
            other.info.run_id,
            pixels,
            key="samples_nfe_1",
            step=step,
            timestamp=ms(step),
            synchronous=True,
        )
    names = [
        sorted(
            re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", file.path)
            for file in api.list_artifacts(each.info.run_id, "images")
        )
        for each in (run, other)
    ]
    assert names[0] == names[1]
    assert run.data.tags["mlflow.loggedImages"] == "True"
    root = (default_artifacts(storage) / STUDY).as_uri()
    assert api.get_experiment(experiment).artifact_location == root


class Crash(BaseException):
    """Stands for a kill: no handler catches it."""


WRITES = (
    "create_experiment",
    "create_run",
    "update_run",
    "log_batch",
    "log_dict",
    "log_artifact",
    "log_artifacts",
    "set_tag",
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "log_outputs",
    "set_terminated",
)


class Crashing:
    """An MlflowClient that crashes once after the effect of each writing call."""

    def __init__(self, inner: Any, crashed: set[str], counts: dict[str, int]) -> None:
        self.inner, self.crashed, self.counts = inner, crashed, counts

    def __getattr__(self, name: str) -> Any:
        call: Callable[..., Any] = getattr(self.inner, name)
        if name not in WRITES:
            return call

        def write(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            self.counts[name] = self.counts.get(name, 0) + 1
            mark = f"{name} {self.counts[name]}"
            if mark not in self.crashed:
                self.crashed.add(mark)
                raise Crash(mark)
            return result

        return write


def test_a_crash_after_every_single_write_doubles_nothing(
    storage: Path, tmp_path: Path, empty_database: Path
) -> None:
    outbox = Outbox(tmp_path)
    tell(Tracker(outbox, STUDY), storage / "files")
    smooth = tmp_path  # the files are below it, too
    shutil.copy(empty_database, smooth / "mlflow.db")
    once = MlflowSink(smooth)
    for event in events(outbox):
        once.apply(event)

    marks: set[str] = set()
    for index, event in enumerate(events(outbox)):
        crashed: set[str] = set()
        while True:
            sink = MlflowSink(storage)
            sink._connected = Crashing(client(storage), crashed, {})  # type: ignore[assignment]
            try:
                sink.apply(event)
                break
            except Crash:
                continue
        marks |= {f"event {index}: {mark}" for mark in crashed}
    assert {mark.split()[2] for mark in marks} == set(WRITES)
    assert picture_of(storage) == picture_of(smooth)


def test_a_run_that_a_slow_server_made_twice_loses_nothing(
    storage: Path, tmp_path: Path, empty_database: Path
) -> None:
    """Both have the same tag and start; drivers that follow must agree on which of them counts."""
    outbox = Outbox(tmp_path)
    tracker = Tracker(outbox, STUDY)
    tell(tracker, storage / "files")
    reports = (make_report(32, 0.5), make_report(64, 0.25))
    done = make_record(0, "completed", reports, "backward")
    tracker.settled([done, make_record(1, "pruned", (make_report(32, 0.4),))])
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    once = MlflowSink(tmp_path)
    for event in events(outbox):
        once.apply(event)

    api = client(storage)
    for event in events(outbox):
        experiment = api.get_experiment_by_name(STUDY)
        made = {} if experiment is None else {r.info.run_name: r for r in _runs(api, experiment)}
        for run in made.values():
            api.create_run(experiment.experiment_id, run.info.start_time, _first_tags(run))
        for model in api.search_logged_models([experiment.experiment_id]) if experiment else ():
            api.create_logged_model(
                experiment.experiment_id, "late", model.source_run_id, model.tags
            )
        MlflowSink(storage).apply(event)
    assert len(_runs(api, api.get_experiment_by_name(STUDY))) == len(made)
    found, wanted = picture_of(storage), picture_of(tmp_path)
    models = [model for model in found.pop("models") if model[0] != "late"]
    assert models == wanted.pop("models")
    assert found == wanted


def test_what_a_driver_that_slept_in_the_middle_of_a_write_did_late_is_mended(
    storage: Path, tmp_path: Path
) -> None:
    """MLflow takes a write of anybody: a finished trial was "running" again, and a run was doubled."""
    outbox = Outbox(tmp_path)
    tracker = Tracker(outbox, STUDY)
    tell(tracker, storage / "files")
    reports = (make_report(32, 0.5), make_report(64, 0.25))
    done = make_record(0, "completed", reports, "backward")
    pruned = make_record(1, "pruned", (make_report(32, 0.4),))
    tracker.settled([done, pruned, make_record(2)])
    *told, settled = events(outbox)
    sink = MlflowSink(storage)
    for event in told:
        sink.apply(event)
    before = picture_of(storage)

    # Each write of the events before, late; the page then shows what no longer is.
    api = client(storage)
    experiment = api.get_experiment_by_name(STUDY).experiment_id
    runs = {run.info.run_name: run for run in api.search_runs([experiment])}
    late = runs["trial 00000 backward"]
    for name, value in (("state", "running"), ("rung", "0"), ("images", "32")):
        api.set_tag(late.info.run_id, name, value)
    api.update_run(late.info.run_id, status="RUNNING")
    for name in ("trial 00001", STUDY):
        api.create_run(experiment, runs[name].info.start_time, _first_tags(runs[name]))
    assert picture_of(storage) != before
    for each in (sink, MlflowSink(storage)):
        each.apply(settled)
        assert picture_of(storage) == before
        assert len(api.search_runs([experiment])) == len(runs)
    # The objective was changed, and the values of both trials with it.
    tracker.settled([replace(done, value=0.125), pruned])
    *_, changed = events(outbox)
    for _ in range(2):
        sink.apply(changed)
    objective = api.get_run(late.info.run_id).data.metrics["objective"]
    assert objective == 0.125
    assert len(api.get_metric_history(late.info.run_id, "objective")) == 3
    # The run that is left is the one that goes on being written to.
    tracker.reported(replace(pruned, status="running"), make_report(64, 0.1))
    *_, more = events(outbox)
    sink.apply(more)
    assert len(picture_of(storage)["trial 00001"]["metrics"]["objective"]) == 1
    assert len(picture_of(storage)["trial 00001"]["metrics"]["teacher_gap/nfe_1"]) == 2


def _first_tags(run: Any) -> dict[str, str]:
    """Those with which a run is made; the rest comes by later writes."""
    return {
        key: value
        for key, value in run.data.tags.items()
        if key.startswith(("meanflow_tune.", "mlflow.")) or key == "trial"
    }


def test_a_driver_that_lost_its_lease_makes_no_further_call(storage: Path, tmp_path: Path) -> None:
    """Between any two calls of one event, not only between events."""
    outbox = Outbox(tmp_path)
    tracker = Tracker(outbox, STUDY)
    tracker.trial_started(Job(STUDY, 0, small_config(0), "/nowhere", 0, 1), make_record(0))
    [event] = events(outbox)
    made: list[int] = []
    for allowed in range(100):
        calls = iter(range(allowed))

        def fence(calls: Iterator[int] = calls) -> None:
            if next(calls, None) is None:
                raise LeaseLost("epoch 2")

        sink = MlflowSink(storage, fence=fence)
        try:
            sink.apply(event)
        except LeaseLost:
            found = client(storage).get_experiment_by_name(STUDY)
            made.append(
                0 if found is None else len(client(storage).search_runs([found.experiment_id]))
            )
        else:
            break
    # It was stopped before it made a run, and after that before it wrote its state.
    assert {0, 1, 2} <= set(made)
    assert picture_of(storage)["trial 00000"]["tags"]["state"] == "running"


KILLED = """
import os, signal, sys
from pathlib import Path
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.outbox import Outbox
from meanflow_tune.tracking.replay import Replayer

sink = MlflowSink(Path(sys.argv[2]))
create = sink._client().create_run
calls = []

def deadly(*args, **kwargs):
    run = create(*args, **kwargs)
    calls.append(run)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return run

sink._client().create_run = deadly
with Replayer(Outbox(Path(sys.argv[1])), sink) as replayer:
    replayer.drain(100)
"""


def test_kill_9_after_a_run_was_made_makes_no_second_one(storage: Path, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    tell(Tracker(outbox, STUDY), storage / "files")
    outbox.close()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    script = [sys.executable, "-c", KILLED, str(tmp_path), str(storage)]
    assert subprocess.run(script, env=environment, check=False).returncode == -signal.SIGKILL
    assert len(picture_of(storage)) == 3  # search, first trial, "models"
    with Replayer(Outbox(tmp_path), MlflowSink(storage)) as replayer:
        assert replayer.drain(PATIENCE) == 0
    seen = picture_of(storage)
    assert len(seen) == 5
    assert seen["trial 00000 backward"]["status"] == "FINISHED"


def test_a_trial_that_goes_on_and_a_search_that_is_extended_keep_their_runs(
    storage: Path, tmp_path: Path
) -> None:
    outbox, sink = Outbox(tmp_path), MlflowSink(storage)
    tracker = Tracker(outbox, STUDY)
    for attempt in (0, 1):
        tracker.search_started({"goal": "go on"})
        job = Job(STUDY, 4, small_config(4), "/nowhere", attempt, attempt)
        tracker.trial_started(job, make_record(4))
        report = make_report(32 + attempt, 0.5)
        tracker.reported(make_record(4, reports=(report,)), report)
        if attempt == 0:
            tracker.search_ended({"status": "interrupted"})
    tracker.catch_up([make_record(4, reports=(make_report(32, 0.5), make_report(33, 0.5)))])
    for event in events(outbox):
        sink.apply(event)
    seen = picture_of(storage)
    assert seen.keys() == {STUDY, "trial 00004", "models"}
    assert (seen[STUDY]["status"], seen["trial 00004"]["status"]) == ("RUNNING", "RUNNING")
    assert seen["trial 00004"]["tags"]["attempt"] == "1"
    assert [step for step, *_ in seen["trial 00004"]["metrics"]["objective"]] == [32, 33]


def test_repeats_are_runs_below_their_trial_and_a_pause_is_a_state(
    storage: Path, tmp_path: Path
) -> None:
    outbox = Outbox(tmp_path)
    own, repeat = make_report(64, 0.5), replace(make_report(64, 0.4), repeat=1)
    tracker = Tracker(outbox, STUDY)
    tracker.catch_up([replace(make_record(0, "completed", (own,)), repeats=(repeat,))])
    tracker.catch_up([make_record(1, "paused", (make_report(32, 0.9),))])
    sink = MlflowSink(storage)
    for event in (*events(outbox), *events(outbox)):
        sink.apply(event)
    seen = picture_of(storage)
    assert seen["repeat 1 of trial 00000"]["parent"] == "trial 00000"
    assert [m[1] for m in seen["repeat 1 of trial 00000"]["metrics"]["teacher_gap/nfe_1"]] == [0.4]
    assert [m[1] for m in seen["trial 00000"]["metrics"]["teacher_gap/nfe_1"]] == [0.5]
    assert seen["trial 00000"]["tags"]["decision"] == "it goes on with 0.5"
    assert seen["trial 00001"]["tags"]["state"] == "paused"
    assert seen["trial 00001"]["status"] == "FINISHED", "it trains no more, unless it is promoted"


def test_what_no_retry_can_help_is_rejected(storage: Path, tmp_path: Path) -> None:
    outbox, sink = Outbox(tmp_path), MlflowSink(storage)
    tracker = Tracker(outbox, STUDY)
    tracker.trial_started(Job(STUDY, 0, {"seed": 1}, "/nowhere", 0, 1), make_record(0))
    tracker.trial_started(Job(STUDY, 0, {"seed": 2}, "/nowhere", 1, 1), make_record(0))
    missing = make_report(32, 0.5, {"samples": str(storage / "gone.png")})
    tracker.reported(make_record(0), missing)
    tracker.ended(make_record(0, "completed"), Outcome("completed"), storage / "gone")
    outbox.put("dance")
    first, changed, picture, ended, model, unknown = events(outbox)
    sink.apply(first)
    sink.apply(ended)
    sink.apply(first)
    for event, words in (
        (changed, "seed"),
        (picture, "gone.png"),
        (model, "not exported"),
        (unknown, "dance"),
    ):
        with pytest.raises(Rejected, match=words):
            sink.apply(event)


def test_a_damaged_model_is_made_again_or_rejected_with_the_remedy(
    storage: Path, tmp_path: Path
) -> None:
    outbox = Outbox(tmp_path)
    tell(Tracker(outbox, STUDY), storage / "files")
    (model,) = (event for event in events(outbox) if event.kind == "model_exported")
    folder = Path(model.payload["model"])
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-1])
    sink = MlflowSink(storage)
    with pytest.raises(Rejected, match=r"is damaged \(.*checksum does not match") as caught:
        sink.apply(model)
    assert "scripts/train.py" in caught.value.remedy
    asked: list[tuple[Path, str]] = []

    def repair(export: Path, why: str) -> None:
        asked.append((export, why))
        write_checked(export / WEIGHTS, lambda path: path.write_bytes(whole))

    MlflowSink(storage, repair=repair).apply(model)
    assert [each for each, _ in asked] == [folder]
    ((_, status),) = picture_of(storage)["models"]
    assert status.endswith("READY")


def test_no_file_outside_the_storage_folder_is_sent(storage: Path, tmp_path: Path) -> None:
    """Whoever can write an outbox must not make the driver of another user publish that user's files."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (storage / STUDY).mkdir()
    (storage / STUDY / "link.png").symlink_to(secret)
    outbox, sink = Outbox(tmp_path), MlflowSink(storage)
    tracker = Tracker(outbox, STUDY)
    tracker.trial_started(Job(STUDY, 0, {"seed": 1}, "/nowhere", 0, 1), make_record(0))
    for number, path in enumerate(
        (secret, storage / ".." / "secret.png", storage / STUDY / "link.png"), start=1
    ):
        tracker.reported(make_record(0), make_report(32 * number, 0.5, {"samples": str(path)}))
    tracker.ended(make_record(0, "completed"), Outcome("completed"), tmp_path)
    started, *others = events(outbox)
    sink.apply(started)
    refused = [event for event in others if event.kind in ("reported", "model_exported")]
    assert len(refused) == 4
    for event in refused:
        with pytest.raises(Rejected, match=r"is not in the storage folder"):
            sink.apply(event)


def test_a_damaged_picture_holds_up_nothing(storage: Path, tmp_path: Path) -> None:
    """Pillow's error for it is an OSError, which a retry was thought to cure."""
    outbox, sink = Outbox(tmp_path), MlflowSink(storage)
    tracker = Tracker(outbox, STUDY)
    tracker.trial_started(Job(STUDY, 0, {"seed": 1}, "/nowhere", 0, 1), make_record(0))
    (storage / "torn.png").write_bytes(b"\x89PNG torn")
    tracker.reported(make_record(0), make_report(32, 0.5, {"s": str(storage / "torn.png")}))
    first, picture = events(outbox)
    sink.apply(first)
    with pytest.raises(Rejected, match=r"torn\.png cannot be read"):
        sink.apply(picture)
    api = client(storage)
    experiment = api.get_experiment_by_name(STUDY).experiment_id
    (run,) = api.search_runs([experiment], "tags.trial = '0'")
    assert run.data.metrics, "the figures are there all the same"


def test_runs_that_were_deleted_meanwhile_are_made_anew(storage: Path, tmp_path: Path) -> None:
    outbox, sink = Outbox(tmp_path), MlflowSink(storage)
    tracker = Tracker(outbox, STUDY)
    tracker.trial_started(Job(STUDY, 0, small_config(0), "/nowhere", 0, 1), make_record(0))
    tracker.reported(make_record(0), make_report(32, 0.5))
    started, reported = events(outbox)
    sink.apply(started)
    api = client(storage)
    experiment = api.get_experiment_by_name(STUDY).experiment_id
    old = api.search_runs([experiment], "tags.trial = '0'")[0].info.run_id
    api.delete_run(old)
    sink.apply(reported)
    new = api.search_runs([experiment], "tags.trial = '0'")[0]
    assert new.info.run_id != old
    assert new.data.metrics["teacher_gap/nfe_1"] == 0.5


def test_values_that_are_not_finite_are_named_and_long_ones_are_cut(
    storage: Path, tmp_path: Path
) -> None:
    outbox, sink = Outbox(tmp_path), MlflowSink(storage)
    tracker = Tracker(outbox, STUDY)
    tracker.search_started({"goal": {"teacher_gap@2": "low", "què (?)": 1}})
    config = {"text": "x" * 7000, **{f"number_{k}": k for k in range(250)}}
    tracker.trial_started(Job(STUDY, 0, config, "/nowhere", 0, 1), make_record(0))
    report = Report(8, {"teacher_gap@1": float("nan"), "teacher_gap@2": 1.0}, {}, START)
    tracker.reported(make_record(0), report)
    for event in events(outbox):
        sink.apply(event)
    seen = picture_of(storage)
    assert seen[STUDY]["params"]["goal.teacher_gap/nfe_2"] == "low"
    run = seen["trial 00000"]
    assert run["tags"]["not_finite"] == "teacher_gap/nfe_1"
    assert run["metrics"].keys() == {"teacher_gap/nfe_2"}
    text = run["params"]["text"]
    assert len(text) == 6000
    assert text.startswith("x" * 5900)
    assert text.endswith(" … [cut: 7,000 characters, the whole is in config.json]")
    assert run["params"]["number_249"] == "249"
    api = client(storage)
    found = api.search_runs([api.get_experiment_by_name(STUDY).experiment_id], "tags.trial = '0'")
    whole = api.download_artifacts(found[0].info.run_id, "config.json", str(tmp_path))
    assert json.loads(Path(whole).read_text()) == config


MAKE = """
import os, signal, sys
from pathlib import Path
import alembic.runtime.migration as migration
from meanflow_tune.tracking.mlflow_store import default_uri, ensure_database

step, steps = migration.HeadMaintainer.update_to_step, 0

def counted(self, *arguments):
    global steps
    steps += 1
    if steps == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)

migration.HeadMaintainer.update_to_step = counted
ensure_database(default_uri(Path(sys.argv[1])))
"""


def test_a_kill_while_the_database_is_made_leaves_none_or_a_whole_one(tmp_path: Path) -> None:
    """MLflow refuses a half migrated one for ever: "Detected out-of-date database schema"."""
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    root = ROOT
    killed = subprocess.run([*command, "20"], cwd=root, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "mlflow.db").exists()
    assert list(tmp_path.glob(".mlflow-new-*")), "it was killed in the middle"
    ensure_database(default_uri(tmp_path))
    assert (tmp_path / "mlflow.db").exists()
    ensure_database(default_uri(tmp_path))


def _runs(api: Any, experiment: Any) -> Any:
    return api.search_runs([experiment.experiment_id])
