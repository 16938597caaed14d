"""Gradients through targets, against central differences of losses written without the package."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jvp

from meanflow_tune.core.types import PathSample
from meanflow_tune.ds_schedules import Constant
from meanflow_tune.losses import (
    Backward,
    FlowMatching,
    Forward,
    Generalized,
    LossMix,
    SecondOrder,
    Solver,
    TriConsistency,
)
from meanflow_tune.objective.loss_module import Objective
from tests.support.smooth import Smooth, field, gradient, smooth_path, squared

RATIO = 0.3
STEPS = Solver(method="euler", steps=1)
LIVE = {
    "backward": LossMix(backward=Backward(stop_gradient=False)),
    "forward": LossMix(forward=Forward(stop_gradient=False)),
    "second_order": LossMix(second_order=SecondOrder(stop_gradient=False)),
    "generalized": LossMix(generalized=Generalized(alpha=0.3, beta=-0.4, stop_gradient=False)),
    "teacher": LossMix(tri_consistency=TriConsistency(stop_gradient=False, solver=STEPS)),
    "student": LossMix(tri_consistency=TriConsistency(stop_gradient=False, second_part="student")),
    "start": LossMix(tri_consistency=TriConsistency(stop_gradient=False, split="start")),
    "one of three": LossMix(
        backward=Backward(share=0.6),
        forward=Forward(share=0.7),
        second_order=SecondOrder(share=-0.3, stop_gradient=False),
    ),
    "all but one": LossMix(
        backward=Backward(share=0.2, stop_gradient=False),
        forward=Forward(share=0.3, stop_gradient=False),
        second_order=SecondOrder(share=0.1),
        tri_consistency=TriConsistency(share=0.4, second_part="student", stop_gradient=False),
    ),
    "sum": LossMix(
        form="sum",
        backward=Backward(share=0.7),
        second_order=SecondOrder(share=0.3, stop_gradient=False),
    ),
}
Weights = dict[str, Tensor]


def targets(net: Smooth, at: Weights, start: Weights, path: PathSample, mix: LossMix) -> Weights:
    """The targets as their equations say, with u and its derivatives at the parameters `at`."""
    x, t, s = path.x_t, path.t, path.s
    v, one = field(x, t), torch.ones_like(t)
    gap = (s - t)[:, None]

    def u(weights: Weights, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        out: Tensor = functional_call(net, weights, (x, t, s))
        return out

    def d_s(x: Tensor, t: Tensor) -> Tensor:
        return jvp(lambda s: u(at, x, t, s), (s,), (one,))[1]

    value, d_t = jvp(lambda x, t: u(at, x, t, s), (x, t), (v, one))
    slope, mixed = jvp(d_s, (x, t), (v, one))
    v_s = field(x + gap * u(start, x, t, s), s)
    middle = s - RATIO * (s - t)
    before, first = u(at, x, t, middle), u(start, x, t, middle)
    x_split = x + (middle - t)[:, None] * first
    tri = mix.tri_consistency
    own = tri is not None and tri.second_part == "student"
    rest = u(start, x_split, middle, s) if own else field(x_split, middle)
    parts = (1 - RATIO) * before + RATIO * rest
    if tri is not None and tri.split == "start":
        parts = RATIO * v + (1 - RATIO) * u(at, x + RATIO * gap * v, t + RATIO * (s - t), s)
    general = mix.generalized or Generalized()
    a, b = general.alpha, general.beta
    return {
        "backward": v + gap * d_t,
        "forward": v_s - gap * slope,
        "second_order": 0.5 * (v + v_s) - 0.5 * gap**2 * mixed,
        "generalized": a * v
        + (1 - a) * v_s
        + gap * ((a - b / 2) * d_t - (1 - a - b / 2) * slope)
        - b / 2 * gap**2 * mixed,
        # (u - T) / ρ with T the identity's right-hand side.
        "tri_consistency": value - (value - parts) / RATIO,
    }


def written_out(net: Smooth, at: Weights, start: Weights, path: PathSample, mix: LossMix) -> float:
    """The loss at the parameters `at`, whose stopped parts stay at `start`."""
    u = functional_call(net, at, (path.x_t, path.t, path.s))
    live, stopped = (targets(net, w, start, path, mix) for w in (at, start))
    each = {n: stopped[n] if loss.stop_gradient else live[n] for n, loss in mix.active.items()}
    weights = mix.weights(1.0)
    if mix.form == "sum":
        return float(sum(weights[n] * (u - target).square().mean() for n, target in each.items()))
    return float((u - sum(weights[n] * target for n, target in each.items())).square().mean())


@pytest.mark.parametrize("name", LIVE)
def test_the_gradient_is_that_of_the_loss_as_written(name: str) -> None:
    mix, net, path = LIVE[name], Smooth(), smooth_path()
    schedule = Constant(value=RATIO) if mix.tri_consistency else None
    output = Objective(net, field, squared(mix, ds_schedule=schedule))(path, 1.0)
    output.loss.backward()
    start = {n: p.detach().clone() for n, p in net.named_parameters()}
    with torch.no_grad():
        assert output.loss.item() == pytest.approx(written_out(net, start, start, path, mix))
        generator = torch.Generator().manual_seed(4)
        step = 1e-5
        for _ in range(3):
            direction = {
                n: torch.randn(p.shape, generator=generator, dtype=torch.float64)
                for n, p in start.items()
            }
            plus, minus = (
                {n: p + sign * step * direction[n] for n, p in start.items()} for sign in (1, -1)
            )
            slope = (
                written_out(net, plus, start, path, mix) - written_out(net, minus, start, path, mix)
            ) / (2 * step)
            flat = torch.cat([d.flatten() for d in direction.values()])
            assert torch.dot(gradient(net), flat).item() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("name", LIVE)
def test_stopping_the_gradient_changes_it_and_not_the_loss(name: str) -> None:
    mix, path, found = LIVE[name], smooth_path(), []
    data = mix.model_dump(mode="json")
    for loss in mix.active:
        data[loss]["stop_gradient"] = True
    schedule = Constant(value=RATIO) if mix.tri_consistency else None
    for each in (mix, LossMix.model_validate(data)):
        net = Smooth()
        output = Objective(net, field, squared(each, ds_schedule=schedule))(path, 1.0)
        output.loss.backward()
        found.append((output.loss.item(), gradient(net)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert not torch.allclose(found[0][1], found[1][1], rtol=1e-2)


def test_a_target_without_u_has_no_gradient_to_let_through() -> None:
    with pytest.raises(ValueError, match="flow_matching does not depend on u"):
        FlowMatching(stop_gradient=False)
