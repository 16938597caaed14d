"""A driver's stage and its end without Ray: what a person is told of full disks and broken trials."""

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from meanflow_tune.cluster.signals import Interrupt
from meanflow_tune.driver import driver
from meanflow_tune.driver.conclusion import finish
from meanflow_tune.driver.stage import Stage, submit
from meanflow_tune.files import Unreachable, WaitForSpace
from meanflow_tune.plan.request import SearchRequest, UserError
from meanflow_tune.records import Outcome, Report, TrialRecord
from meanflow_tune.report.live import View
from meanflow_tune.search.errors import LeaseLost, SearchStopped
from meanflow_tune.search.store.trials import read_records
from meanflow_tune.tracking.outbox import Outbox
from meanflow_tune.tracking.replay import Replayer
from meanflow_tune.training.disk_wait import NO_SPACE
from tests.support.paths import TINY_SPACE
from tests.support.sinks import RecordingSink
from tests.support.studies import make_ledger

SPACE = str(TINY_SPACE)


def make_stage(folder: Path, **changes: Any) -> tuple[Stage, RecordingSink]:
    sink = RecordingSink()
    outbox = Outbox(folder, changes.pop("fence", lambda: None))
    view = View(quiet=True)
    stage = Stage(
        "toy",
        make_ledger(folder, **changes),
        outbox,
        Replayer(outbox, sink),
        view,
        ThreadPoolExecutor(1),
        "trial",
        8,
        Interrupt(),
        WaitForSpace(view.error, lambda: False),
    )
    return stage, sink


def test_a_wait_for_space_is_told_once_and_its_end_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, _ = make_stage(tmp_path)
    waiting = {"phase": NO_SPACE, "folder": "/data/trials/00001", "free": "0.0 MB free"}
    for progress in ({0: waiting}, {0: waiting, 1: waiting}, {0: {"phase": "train"}}, {}):
        stage.on_tick({"progress": progress})
    first, second = capsys.readouterr().err.strip().splitlines()
    assert "/data/trials/00001 (0.0 MB free)" in first
    assert "Ctrl-C" in first
    assert "again" in second


def test_a_replaced_driver_finds_out_within_a_tick(tmp_path: Path) -> None:
    lost: list[str] = []

    def fence() -> None:
        if lost:
            raise LeaseLost("another driver has the study")

    stage, _ = make_stage(tmp_path, fence=fence)
    stage.on_tick({"progress": {}})
    lost.append("now")
    with pytest.raises(LeaseLost):
        stage.on_tick({"progress": {}})


def test_a_replaced_driver_says_once_why_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not again, with a traceback, for each event that its background thread still had to tell."""
    lost: list[str] = []

    def fence() -> None:
        if lost:
            raise LeaseLost("another driver has the study")

    stage, _ = make_stage(tmp_path, fence=fence, rungs=None)
    job = stage.next_job()
    assert job is not None
    lost.append("now")  # only for what is told in the background: the study's own fence is open
    stage.on_report(job.number, Report(20, {"gap@1": 1.0}, {}, 0.0))
    stage.background.shutdown(wait=True)
    assert caplog.records == []


def test_no_space_for_a_picture_is_one_line_and_the_report_is_told_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C nothing waits for space any more; Pillow raises ENOSPC behind errors of its own."""

    def draw(record: TrialRecord, report: Report) -> Report:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("meanflow_tune.driver.stage.with_pictures", draw)
    stage, sink = make_stage(tmp_path, rungs=None)
    job = stage.next_job()
    assert job is not None
    stage.on_report(job.number, Report(20, {"gap@1": 1.0}, {}, 0.0))
    stage.background.shutdown(wait=True)
    with stage.replayer:
        assert stage.replayer.drain(120.0) == 0
    (line,) = caplog.records
    assert line.getMessage() == f"no space to draw the samples of trial {job.number}"
    assert line.exc_info is None
    assert [event.kind for event in sink.seen].count("reported") == 1


def test_the_trial_that_stops_a_search_is_tracked_like_any_other(tmp_path: Path) -> None:
    stage, sink = make_stage(tmp_path, max_failures=2)
    broken = Outcome("failed", "KeyError: 'x'", deterministic=True)
    for expected in (None, SearchStopped):
        job = stage.next_job()
        assert job is not None
        if expected is None:
            stage.on_end(job.number, broken)
        else:
            with pytest.raises(expected, match="KeyError"):
                stage.on_end(job.number, broken)
    stage.background.shutdown(wait=True)
    with stage.replayer:
        assert stage.replayer.drain(120.0) == 0
    ends = [event.payload for event in sink.seen if event.kind == "trial_ended"]
    assert [(end["trial"], end["status"]) for end in ends] == [("0", "failed"), ("1", "failed")]


def test_a_report_without_the_objective_ends_its_trial_and_not_the_search(tmp_path: Path) -> None:
    """A metric that is never reported aborts a stock search; NaN leaves a trial running for ever."""
    stage, _ = make_stage(tmp_path, baselines={}, rungs=None, total=3)
    for expected, metrics in (("missing", {"other@1": 1.0}), ("nan", {"gap@1": float("nan")})):
        job = stage.next_job()
        assert job is not None
        assert stage.on_report(job.number, Report(20, metrics, {}, 0.0)) is False, expected
        # A worker that stops for this decision says that it was pruned.
        stage.on_end(job.number, Outcome("pruned", "stopped at a rung"))
        record = stage.ledger.record_of(job.number)
        assert record.status == "failed"
        assert "gap@1" in record.reason
    job = stage.next_job()
    assert job is not None
    assert stage.on_report(job.number, Report(20, {"gap@1": 1.0}, {}, 0.0))


def test_each_line_says_each_thing_once_and_a_promotion_reads_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, _ = make_stage(tmp_path, baselines={}, total=4)
    stage.view.quiet = False

    def reach(images: int, gap: float, end: str | None = None) -> None:
        job = stage.next_job()
        assert job is not None
        for rung in (20, 40, 80):
            if rung > images:
                break
            go_on = stage.on_report(job.number, Report(rung, {"gap@1": gap}, {}, 0.0))
        if end is not None:
            assert go_on is (end == "completed")
            stage.on_end(job.number, Outcome(end))  # type: ignore[arg-type]

    reach(20, 0.1)
    for gap in (0.25, 0.3):
        reach(20, gap, "pruned")
    reach(20, 0.5, "pruned")
    reach(20, 0.25)
    told = [line.partition(" s] ")[2] for line in capsys.readouterr().out.splitlines()]
    assert told[:5] == [
        "trial 0 started (proposed)",
        "trial 0: 0.1 at 20 images (place 1 of 1; nothing is stopped before 2 values)",
        "trial 1 started (proposed)",
        "trial 1: 0.25 at 20 images (place 2 of 2; only the best continues)",
        "trial 1 paused",
    ]
    assert told[-1] == "trial 1 promoted from 20 images: place 2 of 4, the best 2 continue"
    again, _ = make_stage(tmp_path, baselines={}, total=4)
    again.view.quiet = False
    assert again.next_job() is not None
    assert "trial 0 resumed from 20 images (proposed, attempt 2)" in capsys.readouterr().out


class Bench:
    """In the place of a Ray runner: every job ends as `decide(number)` says, without training."""

    description, slots = "no cluster", 1

    def __init__(self, decide: Any) -> None:
        self._decide = decide

    def search(self, stage: Stage, name: str, interrupt: Interrupt) -> None:
        while (job := stage.next_job()) is not None:
            outcome = self._decide(job.number)
            if outcome.status == "completed":
                metrics = {"teacher_gap@1": 1.0 + job.number, "teacher_gap@2": 1.0}
                for images in (3200, 6400, 12_800):
                    stage.on_report(job.number, Report(images, metrics, {}, 0.0))
            stage.on_end(job.number, outcome)


def run(
    storage: Path, monkeypatch: pytest.MonkeyPatch, decide: Any, **changes: Any
) -> tuple[int, RecordingSink]:
    sink = RecordingSink()

    @contextmanager
    def start(**options: Any) -> Iterator[Bench]:
        yield Bench(decide)

    monkeypatch.setattr(driver.Runner, "start", start)
    monkeypatch.setattr(driver, "MlflowSink", lambda *_, **__: sink)
    request = SearchRequest(
        space=SPACE, study="s", trials=6, storage=storage, confirm_seeds=0, **changes
    )
    return driver.run(request, "the same command", quiet=True), sink


def test_broken_trials_in_a_row_stop_the_search_with_status_3_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock Tune.fit() goes on to the last trial and ends with status 0."""
    broken = Outcome("failed", "KeyError: 'x' (line 3)", deterministic=True)
    with pytest.raises(
        UserError, match=r"3 consecutive failed trials.*KeyError: 'x'.*same command"
    ) as caught:
        run(tmp_path, monkeypatch, lambda number: broken)
    assert caught.value.status == 3
    assert "\n" not in str(caught.value)
    frame = pd.read_parquet(tmp_path / "s" / "results.parquet")
    assert list(frame["status"]) == ["failed"] * 3
    # Once it is mended the same command goes on behind them.
    status, _ = run(tmp_path, monkeypatch, lambda number: Outcome("completed"))
    assert status == 0
    frame = pd.read_parquet(tmp_path / "s" / "results.parquet").query("is_last")
    assert list(frame["status"]) == ["failed"] * 3 + ["completed"] * 3


def test_retries_that_were_used_up_are_tried_once_more_by_the_next_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Outcome("failed", "crashed 4 times: rank 0: ConnectionResetError")

    def decide(number: int) -> Outcome:
        return gone if number in (1, 3) else Outcome("completed")

    def statuses() -> list[str]:
        frame = pd.read_parquet(tmp_path / "s" / "results.parquet").query("is_last")
        return list(frame["status"])

    assert run(tmp_path, monkeypatch, decide)[0] == 0
    others = ["completed", "running", "completed", "running", "completed", "completed"]
    assert statuses() == others
    status, _ = run(tmp_path, monkeypatch, decide)
    assert status == 0
    assert statuses() == [name.replace("running", "failed") for name in others]


def test_a_row_of_trials_that_broke_off_stops_the_search_with_all_of_them_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Outcome("failed", "crashed 4 times: rank 0: ConnectionResetError")
    with pytest.raises(
        UserError, match=r"3 consecutive failed trials.*ConnectionResetError"
    ) as caught:
        run(tmp_path, monkeypatch, lambda number: gone)
    assert caught.value.status == 3
    status, _ = run(tmp_path, monkeypatch, lambda number: Outcome("completed"))
    assert status == 0
    frame = pd.read_parquet(tmp_path / "s" / "results.parquet").query("is_last")
    assert list(frame["status"]) == ["completed"] * 6


def test_when_every_trial_failed_the_status_is_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock: exit status 0."""
    bad = Outcome("diverged", "gradient not finite at step 0", violation=2.0)
    assert run(tmp_path, monkeypatch, lambda number: bad)[0] == 3


def test_lack_of_memory_is_infeasible_in_study_table_and_tracking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock Ray + Optuna: a trial that raises is FAIL, which samplers ignore, so they ask for its like."""
    short = Outcome("out_of_memory", "it asked for 20 GiB", violation=0.25)

    def decide(number: int) -> Outcome:
        return short if number % 2 else Outcome("completed")

    status, sink = run(tmp_path, monkeypatch, decide)
    assert status == 0
    frame = pd.read_parquet(tmp_path / "s" / "results.parquet").query("is_last")
    expected = ["completed", "out_of_memory"] * 3
    assert list(frame["status"]) == expected
    assert {
        int(event.payload["trial"]): event.payload["status"]
        for event in sink.seen
        if event.kind == "trial_ended"
    } == dict(enumerate(expected))
    storage = driver.open_storage(tmp_path / "s" / "study.journal")
    trials = storage.get_all_trials(storage.get_study_id_from_name("s"))
    assert [trial.constraints["out_of_memory"] for trial in trials] == [0.0, 0.25] * 3
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED"] * 3
    assert [r.status for r in read_records(storage, "s", tmp_path)] == expected


def test_ctrl_c_at_the_end_also_ends_the_wait_of_the_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python itself waits for that thread before the process ends."""
    interrupt = Interrupt()
    wait = WaitForSpace(lambda text: None, lambda: interrupt.requested, pause=0.01)

    def away() -> None:
        raise Unreachable("s3://bucket", "away")

    with ThreadPoolExecutor(1) as background:
        waiting = background.submit(wait, away, Path("/none"))
        real = background.shutdown

        def pressed(**_: Any) -> None:
            monkeypatch.setattr(background, "shutdown", real)
            raise KeyboardInterrupt

        monkeypatch.setattr(background, "shutdown", pressed)
        with pytest.raises(KeyboardInterrupt):
            finish(background, interrupt)
    assert isinstance(waiting.exception(timeout=10.0), Unreachable)


def test_what_tracking_misses_of_a_silent_storage_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def away() -> None:
        raise Unreachable("s3://bucket", "away")

    with ThreadPoolExecutor(1) as background:
        submit(background, away)
    (record,) = caplog.records
    assert record.exc_info is None
    assert "s3://bucket does not answer (away)" in record.getMessage()
