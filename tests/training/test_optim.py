"""The learning rate over a budget, against its closed form."""

import math

import pytest

from meanflow_tune.config import Optimizer
from meanflow_tune.training.optim import learning_rate


def rates(steps: int, **settings: object) -> list[float]:
    optimizer = Optimizer.model_validate({"learning_rate": 0.1, "warmup": 0.0, **settings})
    return [learning_rate(optimizer, (step + 0.5) / steps) for step in range(steps)]


@pytest.mark.parametrize("warmup", [0.0, 0.25, 1.0])
def test_no_step_has_rate_zero(warmup: float) -> None:
    assert min(rates(8, warmup=warmup, decay="cosine")) > 0.0


def test_half_a_cosine() -> None:
    found = rates(8, decay="cosine")
    assert found == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * (k + 0.5) / 8)) for k in range(8)]
    )
    assert sum(found) / 8 == pytest.approx(0.05), "the mean of a cosine, without bias"


def test_warmup_rises_to_the_rate_and_keeps_its_mean() -> None:
    found = rates(8, warmup=0.5, decay="constant")
    assert found == pytest.approx([0.0125, 0.0375, 0.0625, 0.0875, 0.1, 0.1, 0.1, 0.1])
