"""What an evaluation measures besides the student: the teacher, the data and the noise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from meanflow_tune.config import Evaluation
from meanflow_tune.core.types import DataSplit
from meanflow_tune.data import Digits
from meanflow_tune.metrics import FrechetPixels, SlicedWasserstein, TeacherGap
from meanflow_tune.training.evaluation import make_evaluator

SETTINGS = Evaluation(
    nfe=(1,), samples=256, metrics=(TeacherGap(), SlicedWasserstein(), FrechetPixels())
)


@pytest.fixture(scope="module")
def data() -> DataSplit:
    return Digits().load()


def untrained(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    return torch.zeros_like(x)


def exploding(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    """Euler steps stay finite, the finer reference does not."""
    return x * torch.where(t[0] > 0.0, torch.inf, 0.0)


def test_the_teachers_own_quality_with_a_floor_and_a_ceiling(data: DataSplit) -> None:
    """An untrained teacher is followed at once, and its end is the noise: only this shows it."""
    made = make_evaluator(SETTINGS, data, untrained, None, "cpu")
    assert made.teacher_metrics["teacher_gap@1"] == 0.0, "the student's metric alone is perfect"
    found = made.held_out_metrics
    assert list(found) == ["teacher", "data", "noise"]
    assert all(list(row) == ["sliced_wasserstein", "frechet_pixels"] for row in found.values())
    assert found["teacher"] == found["noise"]
    for name in ("sliced_wasserstein", "frechet_pixels"):
        assert found["data"][name] < 0.5 * found["noise"][name]


def test_without_a_teacher_and_where_it_is_not_finite(data: DataSplit) -> None:
    metrics = Evaluation(nfe=(1,), samples=64, metrics=(SlicedWasserstein(),))
    assert list(make_evaluator(metrics, data, None, None, "cpu").held_out_metrics) == [
        "data",
        "noise",
    ]
    found = make_evaluator(metrics, data, exploding, None, "cpu").held_out_metrics
    assert found["teacher"] == {}
    assert found["noise"]


def test_the_figures_are_in_the_file_of_samples(data: DataSplit, tmp_path: Path) -> None:
    made = make_evaluator(SETTINGS, data, untrained, None, "cpu")
    made.write_samples(tmp_path / "s.npz", {1: made.latents})
    with np.load(tmp_path / "s.npz") as arrays:
        assert json.loads(str(arrays["held_out_metrics"])) == made.held_out_metrics
