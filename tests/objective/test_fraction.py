"""second_order.fraction: what the other rows are trained on, what they cost, and on which rows."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from meanflow_tune.core.rows import Rows
from meanflow_tune.core.types import PathSample
from meanflow_tune.ds_schedules import Constant
from meanflow_tune.losses import (
    Backward,
    FlowMatching,
    Forward,
    Generalized,
    LossMix,
    Ramp,
    SecondOrder,
    TriConsistency,
)
from meanflow_tune.objective.loss_module import Objective
from meanflow_tune.objective.target_inputs import select_path
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.smooth import Pass, Smooth, field, gradient, smooth_path, squared
from tests.support.tiny_run import tiny_config

SHARES = {
    "backward": {"backward": 0.8},
    "forward": {"forward": 0.8},
    "both": {"backward": 0.5, "forward": 0.3},
    "discrete": {"backward": 0.5, "tri_consistency": 0.3},
}
KINDS = {"backward": Backward, "forward": Forward, "tri_consistency": TriConsistency}


def mix_of(shares: dict[str, float], fraction: float, **changes: Any) -> LossMix:
    losses = {name: KINDS[name](share=share) for name, share in shares.items()}
    second = SecondOrder(share=1.0 - sum(shares.values()), fraction=fraction)
    return LossMix(**losses, second_order=second, **changes)


def run(mix: LossMix, path: PathSample, **changes: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient of one step, and its terms."""
    net = Smooth()
    schedule = Constant(value=0.3) if mix.tri_consistency else None
    output = Objective(net, field, squared(mix, ds_schedule=schedule, **changes))(path, 1.0)
    output.loss.backward()
    return gradient(net), output.terms


def with_draws(path: PathSample, drawn: Tensor) -> PathSample:
    return replace(path, uniform_draw=torch.where(drawn, 0.0, 0.999))


def alternate(n: int) -> Tensor:
    return torch.arange(n) % 2 == 0


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("form", ["mixed_target", "sum"])
@pytest.mark.parametrize("diagonal", [0, 3])
def test_the_expected_gradient_is_that_of_the_stated_mixture(
    name: str, form: str, diagonal: int
) -> None:
    """Over two draws in which each row is once with and once without the pass, f = 1/2."""
    shares, path = SHARES[name], smooth_path(9, diagonal)
    mix = mix_of(shares, 0.5, form=form)
    drawn = alternate(9)
    mean = 0.5 * (run(mix, with_draws(path, drawn))[0] + run(mix, with_draws(path, ~drawn))[0])
    w, f = 0.2, 0.5
    stated = {n: share * (1.0 - f * w) / (1.0 - w) for n, share in shares.items()}
    expected, _ = run(mix_of(stated, 1.0, form=form), path)
    torch.testing.assert_close(mean, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.parametrize("share", [0.2, -0.3])
def test_rows_with_the_pass_have_the_whole_mixture_and_others_the_rest(
    drawn: bool, share: float
) -> None:
    shares = {"backward": 0.6 * (1.0 - share), "forward": 0.4 * (1.0 - share)}
    path = smooth_path(1)
    found, _ = run(mix_of(shares, 0.5), with_draws(path, torch.tensor([drawn])))
    whole = mix_of(shares, 1.0) if drawn else LossMix.mixture(backward=0.6, forward=0.4)
    torch.testing.assert_close(found, run(whole, path)[0], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "form", "rest"),
    [
        ("backward", "mixed_target", 2),
        ("forward", "mixed_target", 2),
        ("both", "mixed_target", 2),
        ("both", "sum", 4),
        ("discrete", "mixed_target", 2),
        ("flow_matching", "mixed_target", 0),
    ],
)
def test_other_rows_pay_two_components_or_none(name: str, form: str, rest: int) -> None:
    """Backward and forward together are one derivative along one direction, but not in a sum."""
    path = smooth_path(10, diagonal=2)
    if name == "flow_matching":
        second = SecondOrder(share=0.2, fraction=0.3)
        mix = LossMix(flow_matching=FlowMatching(share=0.8), second_order=second)
    else:
        mix = mix_of(SHARES[name], 0.3, form=form)
    net, schedule = Smooth(), Constant(value=0.3) if mix.tri_consistency else None
    objective = Objective(net, field, squared(mix, ds_schedule=schedule))
    objective(with_draws(path, torch.arange(10) < 5), 1.0)
    jets = [each for each in net.passes if each.components > 1]
    assert jets == [Pass(4, 3)] + ([Pass(rest, 5)] if rest else [])


def test_a_batch_may_have_no_row_of_a_group() -> None:
    mix = mix_of(SHARES["both"], 0.5)
    for path in (smooth_path(1), smooth_path(4), smooth_path(4, diagonal=4)):
        for drawn in (torch.ones(len(path.t)), torch.zeros(len(path.t))):
            found, terms = run(mix, with_draws(path, drawn.bool()))
            assert torch.isfinite(found).all()
            assert all(torch.isfinite(term) for term in terms.values())


def test_rows_are_drawn_evenly_and_alike_on_every_rank() -> None:
    config = tiny_config(losses=mix_of(SHARES["both"], 0.25), ds_schedule=None)
    data = config.data.load()
    whole = Run.start(config, World(), data, None)
    counts = torch.zeros(32)
    for step in range(200):
        whole.step = step
        path = whole.batch()
        assert path.uniform_draw is not None
        drawn = path.uniform_draw < 0.25
        assert abs(int(drawn.sum()) - 8) <= 1
        counts += drawn
    assert (counts / 200 - 0.25).abs().max() < 0.12, "every row of a batch has its turn"
    parts = [Run.start(config, World(rank, 2), data, None) for rank in range(2)]
    for part in parts:
        part.step = whole.step
    both = torch.stack([part.batch().uniform_draw for part in parts], dim=1).flatten()
    assert torch.equal(both, whole.batch().uniform_draw)


def test_two_ranks_have_the_gradient_of_the_whole_batch() -> None:
    mix = mix_of(SHARES["both"], 0.25)
    path = replace(smooth_path(12, 3), uniform_draw=torch.linspace(0.0, 0.9, 12))
    halves = [select_path(path, Rows.of(torch.arange(rank, 12, 2))) for rank in range(2)]
    mean = sum(run(mix, half)[0] for half in halves) / 2
    torch.testing.assert_close(mean, run(mix, path)[0], rtol=1e-10, atol=1e-14)


def test_draws_are_needed_and_fractions_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fraction 0.5 draws rows by PathSample.uniform_draw"):
        run(mix_of(SHARES["both"], 0.5), smooth_path())
    with pytest.raises(ValueError, match=r"fraction 0.5 leaves rows without a target"):
        LossMix(second_order=SecondOrder(fraction=0.5))
    with pytest.raises(ValueError, match=r"no other loss without a ramp is active"):
        LossMix(
            backward=Backward(share=0.5, ramp=Ramp(length=0.5)),
            second_order=SecondOrder(share=0.5, fraction=0.5),
        )
    with pytest.raises(ValueError, match=r"fraction 0.5 saves nothing next to generalized"):
        LossMix(
            generalized=Generalized(share=0.5), second_order=SecondOrder(share=0.5, fraction=0.5)
        )
    with pytest.raises(ValueError, match="greater than 0"):
        SecondOrder(fraction=0.0)
