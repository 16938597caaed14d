"""Bytes of a search, by hand: eight trials, of which four reach the second rung and two the third."""

from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.plan.calibration import Sizes
from meanflow_tune.plan.disk_forecast import DiskForecast
from meanflow_tune.plan.request import SearchRequest

SIZES = Sizes(checkpoint=1000, samples=10, model=100)


def forecast(folder: Path, runs: float = 2.0, **asked: Any) -> DiskForecast:
    request = SearchRequest(study="toy", storage=folder, **asked)
    return DiskForecast(request, SIZES, (8.0, 4.0, 2.0), runs, slots=1)


def test_everything_is_kept_by_default(tmp_path: Path) -> None:
    found = forecast(tmp_path)
    assert found.trial == 3 * 1000 + 3 * 10 + 2 * 100
    assert found.checkpoints == (8 + 4 + 2 + 2 * 3) * 1000
    assert found.outputs == (14 + 2) * 10 + 2 * (2 + 2) * 100


@pytest.mark.parametrize(
    ("keep", "checkpoints"),
    [
        (
            "last",
            4 * 3 + 6,
        ),  # three of the running trial and of those of the answer, one of the others
        ("best:2", 4 * 3 + 2),
        ("best:50", 4 * 3 + 6),
    ],
)
def test_fewer_checkpoints_take_less(tmp_path: Path, keep: str, checkpoints: int) -> None:
    assert forecast(tmp_path, keep_checkpoints=keep).checkpoints == checkpoints * 1000


@pytest.mark.parametrize(
    "asked", [{"tracking_uri": "http://h:5000"}, {"keep_models": "best:3"}, {"keep_models": "none"}]
)
def test_models_that_mlflow_keeps_elsewhere_or_not_at_all(
    tmp_path: Path, asked: dict[str, str]
) -> None:
    assert forecast(tmp_path, **asked).outputs == 160 + 4 * 100


def test_what_is_left(tmp_path: Path) -> None:
    found = forecast(tmp_path)
    assert found.left(0) == found.total
    assert found.left(5) == pytest.approx(found.total / 2)
    assert found.left(10) == 0.0
    assert found.left(11) == 0.0
