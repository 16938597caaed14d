"""Repeats of a trial on other seeds: made where the decision asks, each once, resumed like any run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.records import Job, Outcome, Report
from meanflow_tune.training import job, loop
from meanflow_tune.training.job import Fenced, serve_job
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.tiny_run import Memory, tiny_config

SEEDS = (11, 12)


class Slot:
    """The slot's side: `decide(report)` is the decision; it stops after so many questions whether to."""

    def __init__(
        self,
        decide: Callable[[dict[str, Any]], bool] = lambda report: True,
        stop_after: int | None = None,
    ) -> None:
        self.reports: list[dict[str, Any]] = []
        self.phases: list[str] = []
        self._decide, self._left = decide, stop_after

    def report(self, report: dict[str, Any]) -> bool:
        self.reports.append(report)
        return self._decide(report)

    def tick(self, progress: dict[str, Any]) -> None:
        self.phases.append(progress["phase"])

    def stopping(self) -> bool:
        if self._left is not None:
            self._left -= 1
        return self._left is not None and self._left < 0


def run(folder: Path, slot: Slot, seeds: tuple[int, ...] = SEEDS, attempt: int = 0) -> Outcome:
    job = Job("study", 0, tiny_config(seed=10).to_dict(), str(folder), attempt, 1, seeds)
    plain = json.loads(json.dumps(job.to_dict()))  # as Ray Tune hands it on
    cache = str(folder.parent / "teachers")
    return Outcome(**serve_job(plain, 0, 1, "cpu", slot, cache=cache))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seed of every optimiser step of a student."""
    seeds: list[int] = []
    advance = Run.advance

    def counted(self: Run, module: Any) -> Any:
        if self.config.seed >= 10:
            seeds.append(self.config.seed)
        return advance(self, module)

    monkeypatch.setattr(Run, "advance", counted)
    return seeds


def told(slot: Slot) -> list[tuple[int, int]]:
    return [(report["repeat"], report["images"]) for report in slot.reports]


def test_repeats_follow_the_last_rung_and_report_their_end_only(
    tmp_path: Path, trained: list[int]
) -> None:
    slot = Slot()
    assert run(tmp_path / "trial", slot) == Outcome("completed")
    assert told(slot) == [(0, 128), (0, 320), (1, 320), (2, 320)]
    assert trained == [10] * 10 + [11] * 10 + [12] * 10
    gaps = [report["metrics"]["teacher_gap@1"] for report in slot.reports[1:]]
    assert len(set(gaps)) == 3
    assert slot.reports[-1]["cost"]["cpu_seconds"] > 0
    assert slot.reports[-1]["cost"]["steps"] == 10
    assert {"train", "repeat 1"} <= set(slot.phases)
    about = json.loads((tmp_path / "trial" / "repeats" / "2" / "config.json").read_text())
    assert about == tiny_config(seed=12).to_dict()


def test_a_repeat_is_the_same_run_as_a_trial_on_its_seed(tmp_path: Path) -> None:
    both, alone = Slot(), Slot()
    run(tmp_path / "both", both, (11,))
    job = Job("study", 1, tiny_config(seed=11).to_dict(), str(tmp_path / "alone"), 0, 1)
    serve_job(job.to_dict(), 0, 1, "cpu", alone, cache=str(tmp_path / "teachers"))
    again, own = both.reports[-1]["metrics"], alone.reports[-1]["metrics"]
    assert again["teacher_gap@2"] == own["teacher_gap@2"]


@pytest.mark.parametrize("at", [0, 1])
def test_a_verdict_ends_the_repeats(tmp_path: Path, trained: list[int], at: int) -> None:
    """At the last rung False means none, at the end of repeat 1 no second; the trial is complete."""
    slot = Slot(lambda report: (report["repeat"], report["images"]) != (at, 320))
    assert run(tmp_path / "trial", slot).status == "completed"
    assert set(trained) == {10, 11}.intersection(range(10, 11 + at))
    assert (tmp_path / "trial" / "model" / "config.json").is_file()


def test_after_a_kill_in_a_repeat_nothing_that_ended_runs_again(
    tmp_path: Path, trained: list[int]
) -> None:
    def decide(report: dict[str, Any]) -> bool:
        if report["repeat"] == 2:
            raise KeyboardInterrupt  # the process dies before the driver has heard
        return True

    folder = tmp_path / "trial"
    with pytest.raises(KeyboardInterrupt):
        run(folder, Slot(decide))
    assert len(trained) == 30
    again = Slot()
    assert run(folder, again, attempt=1).status == "completed"
    assert len(trained) == 30
    assert told(again) == [(0, 128), (0, 320), (1, 320), (2, 320)], "told again, for the driver"


def test_an_interrupt_in_a_repeat_leaves_the_trial_running_and_resumable(
    tmp_path: Path, trained: list[int]
) -> None:
    folder = tmp_path / "trial"
    run(tmp_path / "first", Slot(), ())  # the teacher, once
    trained.clear()
    stopped = Slot(stop_after=16)
    assert run(folder, stopped).status == "running"
    assert trained == [10] * 10 + [11] * 6
    assert told(stopped)[-1] == (0, 320)
    again = Slot()
    assert run(folder, again, attempt=1).status == "completed"
    assert trained == [10] * 10 + [11] * 10 + [12] * 10, "no step of the repeat is made twice"
    whole = Slot()
    run(tmp_path / "whole", whole)
    assert (
        again.reports[2]["metrics"]["teacher_gap@1"] == whole.reports[2]["metrics"]["teacher_gap@1"]
    )


def test_a_kill_in_a_repeat_costs_one_rung_interval(tmp_path: Path, trained: list[int]) -> None:
    """Repeats save at the rungs of the trial, though they report only their end."""
    folder = tmp_path / "trial"

    class Killed(Slot):
        def stopping(self) -> bool:
            if trained.count(11) == 7:
                raise KeyboardInterrupt
            return False

    with pytest.raises(KeyboardInterrupt):
        run(folder, Killed())
    run(folder, Slot(), (11,), attempt=1)
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
    outcome = run(tmp_path / "trial", Slot())
    expected = "repeat 2, on seed 12: backward not finite at step 3"
    assert outcome == Outcome("diverged", expected, violation=2.0)


def test_a_newer_lease_stops_the_writing_of_a_repeat(tmp_path: Path) -> None:
    """The folder of a repeat lies below the trial's: its fence is the study's lease."""
    study = tmp_path / "study"
    study.mkdir()

    def decide(report: dict[str, Any]) -> bool:
        if report["images"] == 320:
            (study / "lease.json").write_text(json.dumps({"epoch": 2}))
        return True

    with pytest.raises(Fenced):
        run(study / "trials", Slot(decide))
    assert not (study / "trials" / "repeats" / "1" / "checkpoints").exists()


def test_every_rank_knows_the_verdict_that_rank_0_heard() -> None:
    """Otherwise a rank would begin a repeat without the others, and wait for them in vain."""

    class Second(World):
        def share(self, value: Any) -> Any:
            return False  # what rank 0 was answered

    config = tiny_config()
    run = Run.start(config, Second(1, 2), config.data.load(), None)
    assert not loop._report(run, Report(320, {}, {}, 0.0), Memory())
    assert not run.go_on
