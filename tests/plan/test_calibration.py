"""A calibration times real steps, touches nothing but a temporary folder, and cleans up."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from meanflow_tune.config import TrialConfig
from meanflow_tune.plan import calibration
from meanflow_tune.plan.calibration import Calibration, Timing, busy, calibrate, computed_sizes
from meanflow_tune.search.analysis.forecast import Pace
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.tiny_run import CONFIGS, Memory, tiny_config


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made in the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(configs: list[TrialConfig], cache: Path, said: list[str] | None = None) -> Calibration:
    named = [(f"config {index}", config) for index, config in enumerate(configs)]

    def progress(what: str, done: int, of: int) -> None:
        if said is not None:
            said.append(what)

    return calibrate(named, 1, cache, 1, "cpu", progress, warm_up=1, steps=4)


def test_what_is_measured(tmp_path: Path, temporary: Path) -> None:
    threads = torch.get_num_threads()
    cache, said = tmp_path / "cache", list[str]()
    found = run([tiny_config(), tiny_config(seed=1)], cache, said)
    assert torch.get_num_threads() == threads
    assert not cache.exists()
    assert not list(temporary.glob("meanflow-*"))
    assert len(found.timings) == 2
    for timing in found.timings:
        assert len(timing.steps) == 4
        assert min(*timing.steps, timing.start, timing.evaluation, timing.checkpoint) > 0.0
        assert timing.spread[0] <= timing.median <= timing.spread[1]
        assert timing.sizes is not None
        assert min(timing.sizes.checkpoint, timing.sizes.samples, timing.sizes.model) > 0
    # 640 images in steps of 64, timed by steps of one rank; the two share one teacher.
    assert found.teacher > 0.0
    assert not found.teacher_cached
    assert {"config 0 (1 of 2)", "teacher", "config 1 (2 of 2)"} <= set(said)
    assert said.count("teacher") == 5


def test_a_cached_teacher_is_read_and_left_alone(tmp_path: Path, temporary: Path) -> None:
    config, cache = tiny_config(), tmp_path / "cache"
    Resources(cache, World()).teacher(config, Memory())
    before = files(cache)
    found = run([config], cache)
    assert found.teacher_cached
    assert found.teacher == 0.0
    assert files(cache) == before
    assert not list(temporary.glob("meanflow-*"))


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, temporary: Path) -> None:
    threads = torch.get_num_threads()

    def interrupt(what: str, done: int, of: int) -> None:
        if done == 2 and what != "teacher":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate([("a", tiny_config())], 0, tmp_path / "cache", 1, "cpu", interrupt, 1, 4)
    assert not list(temporary.glob("meanflow-*"))
    assert torch.get_num_threads() == threads


def test_a_configuration_that_diverges_is_said_so(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Run.batch

    def broken(self: Run) -> Any:
        path = batch(self)
        if self.config.seed == 1:
            path.x_1.fill_(float("nan"))
            path.x_t.fill_(float("nan"))
        return path

    monkeypatch.setattr(Run, "batch", broken)
    found = run([tiny_config(), tiny_config(seed=1)], tmp_path / "cache")
    assert found.timings[0].trouble == ""
    assert "not finite" in found.timings[1].trouble
    assert found.pace == found.timings[0].pace


def test_the_batch_of_a_rank_is_its_share(tmp_path: Path, temporary: Path) -> None:
    """Of 32 rows 8 on each of four ranks; the pace is that of all four together."""
    seen: list[int] = []
    config = tiny_config()
    batch = Run.batch

    def watched(self: Run) -> Any:
        path = batch(self)
        seen.append(len(path.x_t))
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "batch", watched)
        found = calibrate(
            [("a", config)], 0, tmp_path / "cache", 4, "cpu", lambda *_: None, warm_up=1, steps=2
        )
    assert seen == [16] * 3 + [8] * 3  # of the teacher, then of the student
    timing = found.timings[0]
    assert timing.pace.image == pytest.approx(timing.median / 32)


def test_the_pace_is_the_mean_of_the_drawn() -> None:
    def timing(step: float, trouble: str = "") -> Timing:
        return Timing("t", 10, (step,) * 3, 0.5, 1.0, 0.25, None, trouble)

    def pace(*timings: Timing) -> Pace | None:
        return Calibration("cpu", timings, 1, 0.0, True, 0.0).pace

    assert pace(timing(9.0), timing(1.0), timing(3.0)) == Pace(0.2, 1.25, 0.5)
    assert pace(timing(9.0), timing(1.0, "diverged")) == Pace(0.9, 1.25, 0.5)
    assert pace(timing(1.0, "diverged")) is None


@pytest.mark.parametrize("name", CONFIGS)
def test_counted_sizes_are_those_of_the_tensors(name: str) -> None:
    """What a checkpoint holds after a step: weights, their average, two moments; the model."""
    config = CONFIGS[name]()
    resources = Resources(Path("unused"), World())
    data = resources.data(config)

    def teacher(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return x

    run = Run.start(config, World(), data, teacher)
    run.advance(run.objective)
    found = computed_sizes(config, data)
    steps = sum(state["step"].nbytes for state in run.optimizer.state.values())
    assert found.checkpoint == _bytes(run.state_dict()) - steps
    assert found.model == _bytes(run.averaged_state())


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return int(value.nbytes)
    if isinstance(value, dict):
        return sum(_bytes(part) for part in value.values())
    return sum(_bytes(part) for part in value) if isinstance(value, list | tuple) else 0


def test_a_busy_machine_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "processors", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.4, 9.0, 9.0))
    assert busy() == ""
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    assert busy() == "the machine was busy with other work (load 3.0 on 2 processors)"
