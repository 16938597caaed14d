"""Two real ranks over gloo train what one rank trains (the trap: DDP must wrap the objective)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.ranks import launch


@pytest.fixture(
    scope="module",
    params=["default", *(pytest.param(n, marks=pytest.mark.slow) for n in ("annealed", "wide"))],
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    for size in (1, 2):
        launch(folder, size, name=request.param)
    return folder


def loaded(folder: Path, name: str, part: str) -> dict[str, torch.Tensor]:
    state: dict[str, dict[str, torch.Tensor]] = torch.load(folder / f"{name}.pt", weights_only=True)
    return state[part]


def test_two_ranks_have_the_gradient_of_the_whole_batch(folder: Path) -> None:
    whole = loaded(folder, "1-0", "gradient")
    for rank in (0, 1):
        halves = loaded(folder, f"2-{rank}", "gradient")
        for name, gradient in whole.items():
            scale = gradient.abs().max()
            # Terms of order 1 may cancel, as those of the weighting's bias do at its optimum.
            assert (halves[name] - gradient).abs().max() < 2e-6 * scale + 2e-8, name


def test_two_ranks_end_with_the_same_weights_as_one(folder: Path) -> None:
    whole = loaded(folder, "1-0", "weights")
    ranks = [loaded(folder, f"2-{rank}", "weights") for rank in (0, 1)]
    for name, weight in whole.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), f"{name} differs between the ranks"
        assert torch.allclose(ranks[0][name], weight, rtol=1e-3, atol=1e-4), name


def test_two_ranks_measure_what_one_measures(folder: Path) -> None:
    one, two = (json.loads((folder / f"{size}.json").read_text()) for size in (1, 2))
    assert one[0] == two[0] == "completed"
    metrics: dict[str, Any] = {k: v for k, v in one[1].items() if "/" not in k}
    assert two[1] == pytest.approx(two[1] | metrics, rel=1e-2)
    loss = "loss/loss"
    assert two[1][loss] == pytest.approx(one[1][loss], rel=1e-3), "losses are means over the ranks"
