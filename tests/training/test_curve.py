"""The training curve: its points follow from the budget, survive a resume and are never doubled."""

from pathlib import Path

import pytest

from meanflow_tune.config import Budget, TrialConfig
from meanflow_tune.curves import CURVE, CurvePoint, read_curve
from meanflow_tune.training.curve import POINTS
from meanflow_tune.training.loop import train
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.system_metrics import SystemSampler
from meanflow_tune.training.world import World
from tests.support.tiny_run import Memory, tiny_config

# 250 steps: a point every 3 steps, and one at the end. No evaluation, which would only take time.
LONG = tiny_config(
    budget=Budget(images=8000, global_batch=32, rungs=(0.5, 1.0)),
    velocity_source="from_scratch",
    teacher=None,
    evaluation=None,
)


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    return Resources(tmp_path_factory.mktemp("teachers"), World())


def trained(
    folder: Path, resources: Resources, config: TrialConfig = LONG, **memory: int
) -> tuple[Run, Memory]:
    run = Run.start(config, World(), resources.data(config), None)
    reporter = Memory(**memory)
    train(run, folder, reporter, None, system=SystemSampler("cpu"))
    return run, reporter


def curve_of(reporter: Memory) -> list[CurvePoint]:
    return [p for report in reporter.reports for p in read_curve(Path(report.artifacts[CURVE]))]


def test_a_budget_has_some_fifty_to_hundred_points(resources: Resources, tmp_path: Path) -> None:
    points = curve_of(trained(tmp_path, resources)[1])
    assert [point.images // 32 for point in points] == [*range(3, 250, 3), 250]
    assert POINTS // 2 <= len(points) <= POINTS
    assert [p.time for p in points] == sorted(p.time for p in points)
    assert all(point.step_ms > 0 for point in points)
    assert points[-1].learning_rate < max(point.learning_rate for point in points)
    assert {"cpu_percent", "load"} <= points[0].system.keys()


def test_losses_are_means_over_the_interval(resources: Resources, tmp_path: Path) -> None:
    points = curve_of(trained(tmp_path, resources)[1])
    again = Run.start(LONG, World(), resources.data(LONG), None)
    losses = [again.advance(again.objective).loss.item() for _ in range(6)]
    assert points[0].loss == pytest.approx(sum(losses[:3]) / 3, rel=1e-12)
    assert points[1].loss == pytest.approx(sum(losses[3:]) / 3, rel=1e-12)


def test_a_resume_in_the_middle_of_an_interval_gives_the_same_curve(
    resources: Resources, tmp_path: Path
) -> None:
    whole = curve_of(trained(tmp_path / "whole", resources)[1])
    # Each time some steps further: within the 34th interval, at a rung, and before any point.
    for asked in (1, 100, 25):
        run, _ = trained(tmp_path / "parts", resources, interrupt_after=asked)
        assert run.step < 250
    parts = curve_of(trained(tmp_path / "parts", resources)[1])
    assert [(p.images, p.loss, p.learning_rate) for p in parts] == [
        (p.images, p.loss, p.learning_rate) for p in whole
    ]


def test_points_lost_with_a_kill_are_made_again(resources: Resources, tmp_path: Path) -> None:
    whole = curve_of(trained(tmp_path / "whole", resources)[1])
    trained(tmp_path / "killed", resources, stop_after=1)
    killed = Run.start(LONG, World(), resources.data(LONG), None)
    killed.load_state_dict(trained(tmp_path / "killed", resources, stop_after=1)[0].state_dict())
    for _ in range(10):  # never saved
        killed.advance(killed.objective)
    after = curve_of(trained(tmp_path / "killed", resources)[1])
    assert [(p.images, p.loss) for p in after] == [(p.images, p.loss) for p in whole]
