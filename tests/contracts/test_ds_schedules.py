"""Schedules of ρ: ranges, end points and stages, and the contract of the family."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from meanflow_tune.ds_schedules import (
    DS_SCHEDULE_KINDS,
    Constant,
    Cosine,
    Doubling,
    DsSchedule,
    DsScheduleSettings,
    Exponential,
    GapPower,
    Linear,
    Sigmoid,
)
from meanflow_tune.ds_schedules.base import ProgressSchedule
from tests.support.other_values import others

SCHEDULES = (
    *(kind() for kind in DS_SCHEDULE_KINDS),
    Constant(value=1.0),
    Cosine(start=0.01, end=1.0),
    Exponential(start=1.0, end=3e-4),
    Linear(start=0.001, end=1.0),
    Sigmoid(start=1.0, end=0.001, temperature=1.0),
    Sigmoid(start=1.0, end=0.005, begin=0.2, until=0.7, snap=5e-3),
    Doubling(start_intervals=1, end_intervals=100),
    GapPower(scale=1.0, power=4.0, smallest=1e-6),
)
PROGRESS = [index / 64 for index in range(65)]
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


@each_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ratio_is_in_range_for_every_progress_and_gap(
    schedule: DsScheduleSettings, dtype: torch.dtype
) -> None:
    gap = torch.linspace(0.0, 1.0, 101, dtype=dtype)
    for progress in PROGRESS:
        ratio = schedule.ratio(progress, gap)
        assert ratio.shape == gap.shape
        assert ratio.dtype == dtype
        assert (ratio > 0.0).all()
        assert (ratio <= 1.0).all()
        assert torch.equal(ratio, schedule.ratio(progress, gap))


@each_schedule
def test_progress_outside_the_budget_is_refused(schedule: DsScheduleSettings) -> None:
    for progress in (-0.01, 1.01, math.nan):
        with pytest.raises(ValueError, match="0 <= progress <= 1"):
            schedule.ratio(progress, torch.ones(1))


@each_schedule
def test_settings_are_data(schedule: DsScheduleSettings) -> None:
    adapter: TypeAdapter[DsScheduleSettings] = TypeAdapter(DsSchedule)
    assert adapter.validate_python(schedule.model_dump(mode="json")) == schedule
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(schedule)(ratio=0.5)


@pytest.mark.parametrize("kind", DS_SCHEDULE_KINDS)
def test_every_setting_changes_the_ratio(kind: type[DsScheduleSettings]) -> None:
    gap = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)

    def everywhere(schedule: DsScheduleSettings) -> torch.Tensor:
        return torch.stack([schedule.ratio(progress, gap) for progress in PROGRESS])

    for name, other in others(kind()):
        assert not torch.equal(everywhere(other), everywhere(kind())), name


def test_kinds_are_distinct() -> None:
    kinds = [kind().kind for kind in DS_SCHEDULE_KINDS]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize(
    "kind",
    [Exponential, Cosine, Linear, Sigmoid, partial(Sigmoid, begin=0.3, until=0.8, snap=0.01)],
)
@pytest.mark.parametrize("start, end", [(0.5, 0.01), (0.01, 0.5), (0.3, 0.3)])
def test_from_start_to_end_without_turning(
    kind: Callable[..., ProgressSchedule], start: float, end: float
) -> None:
    schedule = kind(start=start, end=end)
    values = [schedule.at(progress) for progress in PROGRESS]
    assert values[0] == pytest.approx(start, rel=1e-12)
    assert values[-1] == pytest.approx(end, rel=1e-12)
    steps = torch.tensor(values, dtype=torch.float64).diff() * math.copysign(1.0, end - start)
    assert (steps >= -1e-15).all()


def test_values_in_the_middle() -> None:
    assert Exponential(start=0.1, end=0.001).at(0.5) == pytest.approx(0.01)
    assert Cosine(start=0.5, end=0.1).at(0.5) == pytest.approx(0.3)
    assert Sigmoid(start=0.5, end=0.1).at(0.5) == pytest.approx(0.3)
    assert Linear(start=0.5, end=0.1).at(0.25) == pytest.approx(0.4)
    assert Cosine(start=1.0, end=0.5).at(1 / 3) == pytest.approx(0.875)
    # σ(25 · 0.1) = 0.92414, and the ends of the sigmoid lie within 4e-6 of 0 and 1.
    assert Sigmoid(start=1.0, end=0.5).at(0.6) == pytest.approx(1.0 - 0.5 * 0.92414, abs=1e-5)
    assert Constant(value=0.25).ratio(0.7, torch.ones(2)).tolist() == [0.25, 0.25]


def test_sigmoid_sharpens_with_its_temperature() -> None:
    at = [Sigmoid(start=1.0, end=0.5, temperature=t).at(0.4) for t in (1.0, 10.0, 100.0)]
    assert at[0] < at[1] < at[2] <= 1.0


def test_linear_is_straight() -> None:
    values = torch.tensor([Linear(start=0.9, end=0.2).at(p) for p in PROGRESS], dtype=torch.float64)
    torch.testing.assert_close(values.diff(), torch.full((64,), -0.7 / 64, dtype=torch.float64))
    assert [Linear(start=0.9, end=0.2).at(p) for p in (0.0, 1.0)] == [0.9, 0.2]


def test_sigmoid_without_the_later_settings_means_what_it_meant() -> None:
    stored = {"kind": "sigmoid", "start": 0.7, "end": 0.03, "temperature": 9.0}
    schedule = TypeAdapter(DsSchedule).validate_python(stored)
    for progress in PROGRESS:
        edge = math.tanh(0.25 * 9.0)
        w = 0.5 * (1.0 + math.tanh(0.5 * 9.0 * (progress - 0.5)) / edge)
        assert schedule.at(progress) == (1.0 - w) * 0.7 + w * 0.03  # to the last bit


def test_sigmoid_steps_between_begin_and_until() -> None:
    whole, late = Sigmoid(start=0.9, end=0.1), Sigmoid(start=0.9, end=0.1, begin=0.5, until=0.75)
    for progress in PROGRESS:
        assert late.at(0.5 + progress / 4) == pytest.approx(whole.at(progress), rel=1e-12)
        assert late.at(progress / 2) == 0.9
        assert late.at(0.75 + progress / 4) == pytest.approx(0.1, rel=1e-12)


def test_sigmoid_with_snapping_is_that_of_alpha_flow() -> None:
    """α = 1 - σ(γ (k - (k_s + k_e) / 2) / (k_e - k_s)), 1 above 1 - η, and its end value below η."""
    eta, end = 5e-3, 1e-3
    schedule = Sigmoid(start=1.0, end=end, begin=0.25, until=0.75, snap=eta)
    reached = set()
    for progress in PROGRESS:
        k = min(0.75, max(0.25, progress))
        alpha = 1.0 - 1.0 / (1.0 + math.exp(-25.0 * (k - 0.5) / 0.5))
        found = schedule.at(progress)
        if alpha > 1.0 - eta:
            assert found == 1.0
        elif alpha < eta:
            assert found == end
        else:  # the stretch, and an end above 0
            assert found == pytest.approx(alpha + (1.0 - alpha) * end, abs=4e-6)
        reached.add((alpha > 1.0 - eta, alpha < eta))
    assert len(reached) == 3
    unsnapped = schedule.model_copy(update={"snap": 0.0})
    assert 0.995 < unsnapped.at(0.3) < 1.0


def test_doubling_spends_the_same_share_on_each_stage() -> None:
    schedule = Doubling(start_intervals=10, end_intervals=1280)
    stages = [round(1.0 / schedule.at((stage + 0.5) / 8)) for stage in range(8)]
    assert stages == [10, 20, 40, 80, 160, 320, 640, 1280]
    assert round(1.0 / schedule.at(0.125 - 1e-9)) == 10
    assert round(1.0 / schedule.at(0.125)) == 20
    assert round(1.0 / schedule.at(1.0)) == 1280
    assert round(1.0 / Doubling(start_intervals=10, end_intervals=25).at(1.0)) == 25
    assert Doubling(start_intervals=4, end_intervals=4).at(0.3) == 0.25


def test_gap_power_rises_from_smallest_to_scale() -> None:
    gap = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    ratio = GapPower(scale=0.5, power=2.0, smallest=0.1).ratio(0.0, gap)
    assert ratio.tolist() == pytest.approx([0.1, 0.2, 0.5])


@pytest.mark.parametrize(
    "faulty, words",
    [
        ({"kind": "constant", "value": 0.0}, "greater than 0"),
        ({"kind": "constant", "value": 1.5}, "less than or equal to 1"),
        ({"kind": "exponential", "end": 0.0}, "greater than 0"),
        ({"kind": "cosine", "start": 1.1}, "less than or equal to 1"),
        ({"kind": "sigmoid", "temperature": 0.0}, "greater than 0"),
        ({"kind": "sigmoid", "begin": 0.5, "until": 0.5}, "begin < until"),
        ({"kind": "sigmoid", "begin": -0.1}, "greater than or equal to 0"),
        ({"kind": "sigmoid", "until": 1.1}, "less than or equal to 1"),
        ({"kind": "sigmoid", "snap": -1e-3}, "greater than or equal to 0"),
        ({"kind": "sigmoid", "snap": 0.6}, "less than or equal to 0.5"),
        ({"kind": "linear", "end": 0.0}, "greater than 0"),
        ({"kind": "doubling", "start_intervals": 0}, "greater than or equal to 1"),
        ({"kind": "doubling", "end_intervals": 5}, "start_intervals <= end_intervals"),
        ({"kind": "gap_power", "scale": 1e-4}, "smallest <= scale"),
        ({"kind": "gap_power", "power": 0.0}, "greater than 0"),
    ],
)
def test_faulty_settings_are_refused(faulty: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(DsSchedule).validate_python(faulty)
