"""Mixtures from end to end: form, clamp, generalized, cost, and what is logged."""

from typing import Any

import pytest
import torch

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.jets import velocity_jet
from meanflow_tune.core.residuals import per_sample_mean_square
from meanflow_tune.losses import (
    Backward,
    Forward,
    Generalized,
    LossMix,
    SecondOrder,
    TriConsistency,
)
from meanflow_tune.losses.base import Loss
from meanflow_tune.objective.loss_module import Objective
from meanflow_tune.search.objectives import SearchObjective
from meanflow_tune.weightings import Adaptive, LogVariance, PseudoHuber
from tests.support.smooth import Pass, Smooth, field, gradient, smooth_path, squared

THREE: dict[str, Loss] = {
    "backward": Backward(share=0.5),
    "forward": Forward(share=0.3),
    "second_order": SecondOrder(share=0.2),
}


def step(config: TrialConfig, diagonal: int = 2) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The gradient of one step with Smooth, and its terms."""
    net = Smooth()
    output = Objective(net, field, config)(smooth_path(10, diagonal), 1.0)
    output.loss.backward()
    return gradient(net), output.terms


def test_the_forms_agree_in_gradient_under_a_squared_error() -> None:
    mixed, summed = (step(squared(LossMix(form=f, **THREE)))[0] for f in ("mixed_target", "sum"))
    torch.testing.assert_close(mixed, summed, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "weighting", [Adaptive(power=0.75), PseudoHuber(scale=0.1), LogVariance()], ids=lambda w: w.kind
)
def test_the_forms_differ_under_other_weightings(weighting: Any) -> None:
    """But not under a learned variance, which weighs all losses at (t, s) alike."""
    mixed, summed = (
        step(squared(LossMix(form=f, **THREE), weighting=weighting))[0]
        for f in ("mixed_target", "sum")
    )
    same = torch.allclose(mixed, summed, rtol=1e-2)
    assert same == (weighting.kind == "log_variance")


def test_a_sum_refuses_negative_shares() -> None:
    losses = {"backward": Backward(share=1.3), "second_order": SecondOrder(share=-0.3)}
    LossMix(**losses)
    with pytest.raises(ValueError, match=r"second_order=-0.3\): a loss with a negative weight has"):
        LossMix(form="sum", **losses)


@pytest.mark.parametrize(
    "alpha, beta", [(1.0, 0.0), (0.0, 0.0), (0.5, 1.0), (0.3, 0.2), (0.5, -0.5)]
)
@pytest.mark.parametrize("clamp", [None, 0.3])
def test_generalized_trains_as_the_mixture_that_it_is(
    alpha: float, beta: float, clamp: float | None
) -> None:
    """Under adaptive weighting and a clamp too, in the form of one mixed target."""
    shares = {"backward": alpha - beta / 2, "forward": 1 - alpha - beta / 2, "second_order": beta}
    mixture = LossMix.mixture(**shares, second_order_ramp=0.0).model_copy(update={"clamp": clamp})
    whole = LossMix(generalized=Generalized(alpha=alpha, beta=beta), clamp=clamp)
    weighting = Adaptive(power=1.0)
    found, expected = (step(squared(mix, weighting=weighting)) for mix in (whole, mixture))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-13)
    if clamp is not None:
        assert found[1]["correction/clamped"] == expected[1]["correction/clamped"]


@pytest.mark.parametrize("alpha, beta, needs", [
    (1.0, 0.0, {"d_t"}), (0.0, 0.0, {"v_s", "d_s"}), (0.5, 1.0, {"v_s", "d_t_d_s"}),
])  # fmt: skip
def test_generalized_needs_what_its_corners_need(alpha: float, beta: float, needs: Any) -> None:
    assert Generalized(alpha=alpha, beta=beta).needs == needs


@pytest.mark.parametrize("form", ["mixed_target", "sum"])
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    "losses",
    [
        THREE,
        {"generalized": Generalized(alpha=0.4, beta=-0.5)},
        {"backward": Backward(share=0.2), "generalized": Generalized(share=0.8)},
    ],
)
def test_any_mixture_costs_one_jet_and_one_plain_evaluation(
    form: str, live: bool, losses: dict[str, Loss]
) -> None:
    data = {name: loss.model_dump() | {"stop_gradient": not live} for name, loss in losses.items()}
    net = Smooth()
    mix = LossMix.model_validate({"form": form, "clamp": 1.0, **data})
    objective = Objective(net, field, squared(mix))
    for _ in range(2):  # the first jet pass through a network is checked by a plain evaluation
        net.passes.clear()
        objective(smooth_path(10, 2), 1.0).loss.backward()
    assert net.passes == [Pass(1, 10), Pass(4, 8)], "the jet off the diagonal only"


@pytest.mark.parametrize("form", ["mixed_target", "sum"])
def test_a_clamp_bounds_the_correction_and_leaves_velocities_alone(form: str) -> None:
    """One loss: the residual is u - v_t - the bounded Δ D u."""
    mix = LossMix(form=form, backward=Backward(), clamp=0.2)
    free = LossMix(form=form, backward=Backward())
    net, path = Smooth(), smooth_path(10, 0)
    v = field(path.x_t, path.t)
    u = net(path.x_t, path.t, path.s).detach()
    jet = velocity_jet(net, path.x_t, path.t, path.s, v)
    correction = (path.gap[:, None] * jet.d_t).detach()
    size = per_sample_mean_square(correction).sqrt()
    assert 0 < int((size > 0.2).sum()) < 10, "some are clamped and some are not"
    bounded = correction * (0.2 / size).clamp_max(1.0)[:, None]
    expected = (u - v - bounded).square().mean()
    output = Objective(net, field, squared(mix))(path, 1.0)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert output.terms["correction/clamped"] == pytest.approx(int((size > 0.2).sum()) / 10)
    assert "correction/clamped" not in Objective(net, field, squared(free))(path, 1.0).terms
    far = mix.model_copy(update={"clamp": 1e3})
    unbound = Objective(net, field, squared(far))(path, 1.0)
    assert unbound.loss.item() == pytest.approx(
        Objective(net, field, squared(free))(path, 1.0).loss.item(), rel=1e-14
    )


def test_diagnostics_are_those_of_the_corrections() -> None:
    net, path = Smooth(), smooth_path(10, 0)
    terms = Objective(net, field, squared(LossMix(**THREE)))(path, 1.0).terms
    v, gap = field(path.x_t, path.t), path.gap[:, None]
    jet = velocity_jet(net, path.x_t, path.t, path.s, v)
    first = 0.5 * gap * jet.d_t - 0.3 * gap * jet.d_s
    second = -0.2 * 0.5 * gap**2 * jet.d_t_d_s
    size = jet.u.norm()
    assert terms["correction/backward"].item() == pytest.approx(
        ((gap * jet.d_t).norm() / size).item()
    )
    assert terms["correction/second_order"].item() == pytest.approx(
        ((0.5 * gap**2 * jet.d_t_d_s).norm() / size).item()
    )
    cosine = torch.cosine_similarity(first, second, dim=1).mean()
    assert terms["correction/cosine"].item() == pytest.approx(cosine.item())
    assert not any(term.requires_grad for term in terms.values())
    assert set(terms) == {
        "residual/backward", "residual/forward", "residual/second_order", "residual", "loss",
        "correction/backward", "correction/forward", "correction/second_order", "correction/cosine",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["loss/correction/cosine@1", "correction/cosine@1", "loss/loss@1", "correction/clamped"]
)
def test_what_is_logged_is_no_objective_of_a_search(name: str) -> None:
    with pytest.raises(ValueError, match=r"training loss|must be NAME@NFE"):
        SearchObjective.parse(name)


@pytest.mark.parametrize("form", ["mixed_target", "sum"])
def test_ramps_of_every_loss_reach_the_training(form: str) -> None:
    """start and length of each loss' own ramp, at progresses before, within and after it."""
    full = {"backward": 0.4, "forward": 0.3, "second_order": 0.1, "generalized": 0.1,
            "tri_consistency": 0.1}  # fmt: skip
    for ramped in full:
        data: dict[str, Any] = {name: {"share": share} for name, share in full.items()}
        data[ramped]["ramp"] = {"start": 0.2, "length": 0.4}
        mix = LossMix.model_validate({"form": form, **data})
        for progress, factor in ((0.1, 0.0), (0.4, 0.5), (0.7, 1.0)):
            weights = mix.weights(progress)
            total = 1.0 - full[ramped] * (1.0 - factor)
            assert weights[ramped] == pytest.approx(factor * full[ramped] / total)
            assert sum(weights.values()) == pytest.approx(1.0)
    assert TriConsistency().ramp.weight(0.0) == 1.0
