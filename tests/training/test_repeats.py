"""Repeats of a trial on other seeds: made where the decision asks, each once, resumed like any run."""

import json
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.records import Job, Outcome, Report
from meanflow_tune.search.errors import LeaseLost
from meanflow_tune.training import job, loop
from meanflow_tune.training.job import run_job
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.tiny_run import Memory, tiny_config

SEEDS = (11, 12)


def job_of(folder: Path, seeds: tuple[int, ...] = SEEDS, attempt: int = 0) -> Job:
    return Job("study", 0, tiny_config(seed=10).to_dict(), str(folder), attempt, 1, seeds)


def run(
    folder: Path, reporter: Memory, seeds: tuple[int, ...] = SEEDS, attempt: int = 0
) -> Outcome:
    cache = str(folder.parent / "teachers")
    return run_job(job_of(folder, seeds, attempt), 0, 1, "cpu", reporter, cache=cache)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seed of every optimiser step of a student."""
    seeds: list[int] = []
    advance = Run.advance

    def counted(self: Run, module: Any) -> Any:
        if self.config.teacher is not None:
            seeds.append(self.config.seed)
        return advance(self, module)

    monkeypatch.setattr(Run, "advance", counted)
    return seeds


def told(reporter: Memory) -> list[tuple[int, int]]:
    return [(report.repeat, report.images) for report in reporter.reports]


def test_repeats_follow_the_last_rung_and_report_their_end_only(
    tmp_path: Path, trained: list[int]
) -> None:
    reporter = Memory()
    assert run(tmp_path / "trial", reporter) == Outcome("completed")
    assert told(reporter) == [(0, 128), (0, 320), (1, 320), (2, 320)]
    assert trained == [10] * 10 + [11] * 10 + [12] * 10
    gaps = [report.metrics["teacher_gap@1"] for report in reporter.reports[1:]]
    assert len(set(gaps)) == 3
    assert reporter.reports[-1].cost["cpu_seconds"] > 0
    assert reporter.reports[-1].cost["steps"] == 10
    assert {"train", "repeat 1"} <= {tick["phase"] for tick in reporter.ticks}
    about = json.loads((tmp_path / "trial" / "repeats" / "2" / "config.json").read_text())
    assert about == tiny_config(seed=12).to_dict()


def test_a_repeat_is_the_same_run_as_a_trial_on_its_seed(tmp_path: Path) -> None:
    both, alone = Memory(), Memory()
    run(tmp_path / "both", both, (11,))
    job = Job("study", 1, tiny_config(seed=11).to_dict(), str(tmp_path / "alone"), 0, 1)
    run_job(job, 0, 1, "cpu", alone, cache=str(tmp_path / "teachers"))
    again, own = both.reports[-1].metrics, alone.reports[-1].metrics
    assert again["teacher_gap@2"] == own["teacher_gap@2"]


@pytest.mark.parametrize("at", [0, 1])
def test_a_decision_ends_the_repeats(tmp_path: Path, trained: list[int], at: int) -> None:
    """At the last rung False means none, at the end of repeat 1 no second; the trial is complete."""
    reporter = Memory(decide=lambda report: (report.repeat, report.images) != (at, 320))
    assert run(tmp_path / "trial", reporter).status == "completed"
    assert set(trained) == {10, 11}.intersection(range(10, 11 + at))
    assert (tmp_path / "trial" / "model" / "config.json").is_file()


def test_after_a_kill_in_a_repeat_nothing_that_ended_runs_again(
    tmp_path: Path, trained: list[int]
) -> None:
    def decide(report: Report) -> bool:
        if report.repeat == 2:
            raise KeyboardInterrupt  # the process dies before the driver has heard
        return True

    folder = tmp_path / "trial"
    with pytest.raises(KeyboardInterrupt):
        run(folder, Memory(decide=decide))
    assert len(trained) == 30
    again = Memory()
    assert run(folder, again, attempt=1).status == "completed"
    assert len(trained) == 30
    assert told(again) == [(0, 128), (0, 320), (1, 320), (2, 320)], "told again, for the driver"


def test_an_interrupt_in_a_repeat_leaves_the_trial_running_and_resumable(
    tmp_path: Path, trained: list[int]
) -> None:
    folder = tmp_path / "trial"
    run(tmp_path / "first", Memory(), ())  # the teacher, once
    trained.clear()
    stopped = Memory(interrupt_after=16)
    assert run(folder, stopped).status == "running"
    assert trained == [10] * 10 + [11] * 6
    assert told(stopped)[-1] == (0, 320)
    again = Memory()
    assert run(folder, again, attempt=1).status == "completed"
    assert trained == [10] * 10 + [11] * 10 + [12] * 10, "no step of the repeat is made twice"
    whole = Memory()
    run(tmp_path / "whole", whole)
    assert again.reports[2].metrics["teacher_gap@1"] == whole.reports[2].metrics["teacher_gap@1"]


def test_a_kill_in_a_repeat_costs_one_rung_interval(tmp_path: Path, trained: list[int]) -> None:
    """Repeats save at the rungs of the trial, though they report only their end."""
    folder = tmp_path / "trial"

    class Killed(Memory):
        def stopping(self) -> bool:
            if trained.count(11) == 7:
                raise KeyboardInterrupt
            return False

    with pytest.raises(KeyboardInterrupt):
        run(folder, Killed())
    run(folder, Memory(), (11,), attempt=1)
    assert trained.count(11) == 7 + 6, "the first rung was at step 4"


def test_a_repeat_that_diverges_ends_the_trial_and_names_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = job.train

    def train(run: Run, *args: Any, **kwargs: Any) -> Outcome:
        if run.config.seed == 12:
            return Outcome("diverged", "backward not finite at step 3", violation=2.0)
        return real(run, *args, **kwargs)

    monkeypatch.setattr(job, "train", train)
    outcome = run(tmp_path / "trial", Memory())
    expected = "repeat 2, on seed 12: backward not finite at step 3"
    assert outcome == Outcome("diverged", expected, violation=2.0)


def test_a_newer_lease_stops_the_writing_of_a_repeat(tmp_path: Path) -> None:
    folder, lost = tmp_path / "trial", False

    def fence(place: Path, epoch: int) -> None:
        assert (place, epoch) == (folder, 1)
        if lost:
            raise LeaseLost("another driver has the study")

    def decide(report: Report) -> bool:
        nonlocal lost
        lost = report.images == 320
        return True

    cache, reporter = str(tmp_path / "teachers"), Memory(decide=decide)
    with pytest.raises(LeaseLost):
        run_job(job_of(folder), 0, 1, "cpu", reporter, cache=cache, fence=fence)
    assert not (folder / "repeats" / "1" / "config.json").exists()


def test_every_rank_knows_the_decision_that_rank_0_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a rank would begin a repeat without the others, and wait for them in vain."""

    class Second(World):
        def share(self, value: Any) -> Any:
            return False if value is True else value  # what rank 0 was answered

    monkeypatch.setattr(loop, "DistributedDataParallel", lambda module: module)
    config = tiny_config()
    run = Run.start(config, Second(1, 2), config.data.load(), None)
    run.step, run.reports = config.budget.steps, [Report(320, {}, {}, 0.0)]
    assert loop.train(run, tmp_path, Memory(), None).status == "completed"
    assert not run.go_on
