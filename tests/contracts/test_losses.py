"""Losses: exact identities on a flow with a closed form, and the contract of the family."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.func import jvp

from meanflow_tune.core.residuals import adaptive_weight, per_sample_mean_square
from meanflow_tune.core.types import PathSample, expand_as
from meanflow_tune.losses import (
    LOSSES,
    Backward,
    FlowMatching,
    Forward,
    Generalized,
    Loss,
    LossMix,
    Ramp,
    SecondOrder,
    TargetInputs,
    TriConsistency,
    combine,
)
from tests.support.closed_form import GaussianFlow, flow_batch, gaussian_flow

LOSS_KINDS = list(LOSSES.values())
# As one calls them: each kind with its defaults, and the other split of tri-consistency.
FORMS = [*LOSS_KINDS, partial(TriConsistency, split="start")]
# Flow matching is an identity on the diagonal t = s only.
EXACT = [kind for kind in LOSS_KINDS if kind is not FlowMatching]
OPTIONAL = {field.name for field in fields(TargetInputs)} - {
    "path",
    "v_t",
    "u",
    "directional_derivative",
}
MIXTURES = (
    LossMix.mixture(backward=1.0),
    LossMix.mixture(backward=0.45, forward=0.45, second_order=0.1),
    LossMix.mixture(backward=0.65, forward=0.65, second_order=-0.3, second_order_ramp=0.0),
    LossMix.mixture(backward=0.2, forward=0.3, tri_consistency=0.5),
)


def path_at(x: Tensor, t: Tensor, s: Tensor) -> PathSample:
    return PathSample(x_0=x, x_1=x, x_t=x, v_t=torch.zeros_like(x), t=t, s=s, label=None)


def exact_inputs(flow: GaussianFlow, smallest_gap: float = 0.05) -> TargetInputs:
    """What a student that is exact on `flow` gives, with a ratio of each row's own."""
    x, t, s = flow_batch(flow, batch=32, smallest_gap=smallest_gap)
    jet = flow.jet(x, t, s)
    ratio = torch.linspace(0.05, 1.0, len(t), dtype=torch.float64)
    middle = s - ratio * (s - t)
    x_split = flow.flow(x, t, middle)
    return TargetInputs(
        path=path_at(x, t, s),
        v_t=flow.velocity(x, t),
        u=jet.u,
        v_s=flow.velocity(flow.flow(x, t, s), s),
        d_s=jet.d_s,
        d_t=jet.d_t,
        d_t_d_s=jet.d_t_d_s,
        u_split=flow(x, t, middle),
        ode_velocity=flow(x_split, middle, s),
        ratio=ratio,
    )


def random_inputs(batch: int = 6, diagonal: int = 0) -> TargetInputs:
    """TargetInputs that satisfy no identity; the first `diagonal` rows have t = s."""
    generator = torch.Generator().manual_seed(5)

    def draw() -> Tensor:
        return torch.randn(batch, 1, 2, 2, generator=generator, dtype=torch.float64)

    t = torch.rand(batch, generator=generator, dtype=torch.float64) * 0.5
    s = torch.cat([t[:diagonal], 0.6 + 0.4 * t[diagonal:]])
    ratio = 0.1 + t
    optional = {name: draw() for name in sorted(OPTIONAL - {"ratio"})}
    return TargetInputs(path=path_at(draw(), t, s), v_t=draw(), u=draw(), ratio=ratio, **optional)


def mixed(mix: LossMix, u: Tensor, inputs: TargetInputs, progress: float) -> Tensor:
    """The residual of a mixed target."""
    return combine(mix, u, inputs, progress).residuals["mixed"]


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)])
def test_identity_holds_on_an_exact_flow(kind: type[Loss], shape: tuple[int, ...]) -> None:
    inputs = exact_inputs(gaussian_flow(shape))
    torch.testing.assert_close(kind().target(inputs), inputs.u, rtol=0.0, atol=1e-12)


def test_the_split_at_the_start_is_exact_with_the_mean_velocity_of_its_step() -> None:
    """An Euler step by v_t is not: it is the only error of the split at the start."""
    flow = gaussian_flow()
    inputs = exact_inputs(flow)
    x, t, s = inputs.path.x_t, inputs.path.t, inputs.path.s
    middle = t + inputs.given("ratio") * (s - t)
    after = flow(flow.flow(x, t, middle), middle, s)
    exact = replace(inputs, v_t=flow(x, t, middle), u_after=after)
    start = TriConsistency(split="start")
    torch.testing.assert_close(start.target(exact), inputs.u, rtol=0.0, atol=1e-12)
    assert not torch.allclose(start.target(replace(exact, v_t=inputs.v_t)), inputs.u, atol=1e-3)


@pytest.mark.parametrize("kind", FORMS)
def test_diagonal_rows_are_flow_matching_whatever_else_they_hold(kind: Callable[..., Loss]) -> None:
    inputs = random_inputs(diagonal=2)
    broken = {name: getattr(inputs, name).clone() for name in OPTIONAL}
    for tensor in broken.values():
        tensor[:2] = math.nan
    target = kind().target(replace(inputs, **broken))
    assert torch.equal(target[:2], inputs.v_t[:2])
    assert torch.equal(target[2:], kind().target(inputs)[2:])
    assert torch.isfinite(target).all()


@pytest.mark.parametrize("kind", FORMS)
def test_needs_are_exactly_what_the_target_uses(kind: Callable[..., Loss]) -> None:
    loss, inputs = kind(), random_inputs()
    assert loss.needs <= OPTIONAL
    rest = dict.fromkeys(OPTIONAL - loss.needs)
    assert torch.equal(loss.target(replace(inputs, **rest)), loss.target(inputs))
    for name in loss.needs:
        changed = replace(inputs, **{name: getattr(inputs, name) * 0.9})
        assert not torch.allclose(loss.target(changed), loss.target(inputs))
        without = {name: None}
        with pytest.raises(ValueError, match=name):
            loss.target(replace(inputs, **without))


@pytest.mark.parametrize("kind", FORMS)
def test_residual_is_unreduced_and_its_gradient_is_that_of_u(kind: Callable[..., Loss]) -> None:
    inputs = random_inputs()
    u = inputs.u.clone().requires_grad_()
    residual = kind().residual(u, inputs)
    assert torch.equal(residual.detach(), inputs.u - kind().target(inputs))
    residual.sum().backward()
    assert torch.equal(u.grad, torch.ones_like(u))
    with pytest.raises(ValueError, match="u must have shape"):
        kind().residual(u[:1], inputs)


@pytest.mark.parametrize("kind", FORMS)
def test_settings_are_data(kind: Callable[..., Loss]) -> None:
    loss = kind(share=0.25, ramp=Ramp(start=0.1, length=0.2))
    data = loss.model_dump(mode="json")
    assert type(loss).model_validate(data) == loss
    alone = LossMix.model_validate({loss.kind: data | {"share": 1.0, "ramp": Ramp()}})
    assert LossMix.model_validate(alone.model_dump(mode="json")) == alone
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(loss).model_validate({"kind": loss.kind, "weight": 1.0})
    for share in (0.0, math.nan, math.inf, 10.1, -10.1):
        with pytest.raises(ValidationError):
            kind(share=share)
    if kind is SecondOrder:
        assert kind(share=-0.5).share == -0.5
    else:
        with pytest.raises(ValidationError, match="greater than 0"):
            kind(share=-0.5)


def test_kinds_are_distinct_and_all_can_be_mixed() -> None:
    kinds = [kind().kind for kind in Loss.members()]
    assert sorted(kinds) == sorted(set(kinds)) == sorted(LOSSES)
    assert [kind().kind for kind in LOSS_KINDS] == list(LOSSES)


def test_second_order_leaves_a_kernel() -> None:
    # F = τ³ gives h = F'(t) + F'(s) - 2 (F(s) - F(t)) / Δ = Δ², whose mixed derivative is -2.
    inputs = exact_inputs(gaussian_flow())
    h = expand_as(inputs.path.gap.square(), inputs.u)
    wrong = replace(inputs, u=inputs.u + h, d_t_d_s=inputs.given("d_t_d_s") - 2.0)
    torch.testing.assert_close(SecondOrder().target(wrong), wrong.u, rtol=0.0, atol=1e-12)


def test_mean_velocity_misses_u_by_a_twelfth_of_the_second_derivative() -> None:
    flow = gaussian_flow()
    x, t, _ = flow_batch(flow, smallest_gap=0.1)
    limit = flow.velocity_second_derivative(x, t) / 12.0
    errors = []
    for gap in (0.04, 0.02, 0.01):
        s = t + gap
        mean = 0.5 * (flow.velocity(x, t) + flow.velocity(flow.flow(x, t, s), s))
        errors.append(float(((mean - flow(x, t, s)) / gap**2 - limit).abs().max()))
    # ½ (v_t + v_s) - u = Δ² v'' / 12 + O(Δ³)
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([1.0, 1.0], abs=0.1)


def test_tri_consistency_tends_to_forward_at_first_order_in_the_ratio() -> None:
    flow = gaussian_flow((3,))
    x, t, s = flow_batch(flow, smallest_gap=0.2)
    generator = torch.Generator().manual_seed(2)
    first = torch.randn(5, 16, generator=generator, dtype=torch.float64)
    second = torch.randn(16, 3, generator=generator, dtype=torch.float64)

    def student(s: Tensor) -> Tensor:  # no flow map: the limit of the residual is not 0
        return torch.tanh(torch.cat([x, t[:, None], s[:, None]], dim=1) @ first) @ second / 4.0

    def jump(end: Tensor) -> Tensor:
        return x + (end - t)[:, None] * student(end)

    u, d_s = jvp(student, (s,), (torch.ones_like(s),))
    inputs = TargetInputs(path_at(x, t, s), v_t=u, u=u, v_s=flow.velocity(jump(s), s), d_s=d_s)
    limit = Forward().residual(u, inputs)
    errors = []
    for ratio in (0.02, 0.01, 0.005):
        middle = s - ratio * (s - t)
        split = replace(
            inputs,
            u_split=student(middle),
            ode_velocity=flow(jump(middle), middle, s),
            ratio=torch.full_like(t, ratio),
        )
        errors.append(float((TriConsistency().residual(u, split) - limit).abs().max()))
    assert limit.abs().mean() > 0.1
    assert errors[-1] < 0.1 * limit.abs().mean()
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([1.0, 1.0], abs=0.1)


def test_tri_consistency_at_ratio_one_is_the_teacher_over_the_whole_interval() -> None:
    inputs = random_inputs()
    whole = replace(inputs, ratio=torch.ones_like(inputs.path.t))
    torch.testing.assert_close(TriConsistency().target(whole), inputs.ode_velocity)


def test_tri_consistency_from_the_start_at_ratio_one_is_flow_matching() -> None:
    inputs = random_inputs()
    whole = replace(inputs, ratio=torch.ones_like(inputs.path.t))
    assert torch.equal(TriConsistency(split="start").target(whole), inputs.v_t)


@pytest.mark.parametrize(
    "alpha, beta", [(1.0, 0.0), (0.0, 0.0), (0.5, 0.5), (0.5, 1.0), (0.3, 0.2), (0.5, -0.5)]
)
def test_mixture_is_the_generalized_identity(alpha: float, beta: float) -> None:
    inputs = random_inputs()
    v_s, d_s, d_t, d_t_d_s = (inputs.given(name) for name in ("v_s", "d_s", "d_t", "d_t_d_s"))
    mix = LossMix.mixture(
        backward=alpha - beta / 2,
        forward=1 - alpha - beta / 2,
        second_order=beta,
        second_order_ramp=0.0,
    )
    gap = expand_as(inputs.path.gap, inputs.u)
    first = (alpha - beta / 2) * d_t - (1 - alpha - beta / 2) * d_s
    target = alpha * inputs.v_t + (1 - alpha) * v_s + gap * first
    target = target - beta / 2 * gap.square() * d_t_d_s
    residual = mixed(mix, inputs.u, inputs, 0.0)
    torch.testing.assert_close(residual, inputs.u - target, rtol=0.0, atol=1e-12)
    whole = LossMix(generalized=Generalized(alpha=alpha, beta=beta))
    torch.testing.assert_close(mixed(whole, inputs.u, inputs, 0.0), residual, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("mix", MIXTURES)
def test_mixture_of_exact_identities_is_exact(mix: LossMix) -> None:
    inputs = exact_inputs(gaussian_flow())
    combined = combine(mix, inputs.u, inputs, progress=1.0)
    assert combined.residuals["mixed"].abs().max() < 1e-12
    assert {f"residual/{name}" for name in mix.active} <= set(combined.terms)


@pytest.mark.parametrize("mix", MIXTURES)
def test_mixture_asks_for_what_its_losses_need(mix: LossMix) -> None:
    inputs = random_inputs()
    unused = dict.fromkeys(OPTIONAL - mix.needs)
    expected = mixed(mix, inputs.u, inputs, 0.5)
    combined = combine(mix, inputs.u.clone().requires_grad_(), replace(inputs, **unused), 0.5)
    residual = combined.residuals["mixed"]
    assert torch.equal(residual.detach(), expected)
    assert residual.requires_grad
    assert not any(term.requires_grad for term in combined.terms.values())


def gradients(mix: LossMix, power: float, together: bool) -> Tensor:
    """Gradient for a linear student: of the mixed target's loss, or of the sum of losses."""
    inputs = random_inputs(batch=16)
    net = nn.Linear(4, 4, dtype=torch.float64)
    nn.init.eye_(net.weight)
    nn.init.zeros_(net.bias)
    u = net(inputs.path.x_t.flatten(1)).reshape(inputs.u.shape)
    combined = combine(mix, u, inputs, 1.0)
    if together:
        parts = [(1.0, combined.residuals["mixed"])]
    else:
        weights = mix.weights(1.0)
        parts = [(weights[n], loss.residual(u, inputs)) for n, loss in mix.active.items()]
    total = torch.zeros((), dtype=torch.float64)
    for weight, residual in parts:
        mean_square = per_sample_mean_square(residual)
        total = total + weight * (adaptive_weight(mean_square, power, 1e-3) * mean_square).mean()
    total.backward()
    return net.weight.grad


@pytest.mark.parametrize("mix", MIXTURES[1:])
def test_mixed_target_equals_the_sum_of_losses_only_under_a_squared_error(mix: LossMix) -> None:
    mixed, summed = gradients(mix, 0.0, True), gradients(mix, 0.0, False)
    torch.testing.assert_close(mixed, summed, rtol=0.0, atol=1e-12)
    assert not torch.allclose(gradients(mix, 0.75, True), gradients(mix, 0.75, False), rtol=1e-2)


def test_weights_follow_the_ramps_and_sum_to_one() -> None:
    mix = LossMix.mixture(backward=0.65, forward=0.65, second_order=-0.3, second_order_ramp=0.5)
    assert mix.weights(0.0) == {"backward": 0.5, "forward": 0.5, "second_order": 0.0}
    assert mix.weights(0.25)["second_order"] == pytest.approx(-0.15 / 1.15)
    assert mix.weights(0.5) == pytest.approx(
        {"backward": 0.65, "forward": 0.65, "second_order": -0.3}
    )
    assert mix.weights(1.0) == mix.weights(0.5)
    for progress in torch.linspace(0.0, 1.0, 41).tolist():
        assert math.fsum(mix.weights(progress).values()) == pytest.approx(1.0, abs=1e-15)


def test_ramp() -> None:
    ramp = Ramp(start=0.2, length=0.4)
    at = [ramp.weight(progress) for progress in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert at == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])
    assert [Ramp().weight(progress) for progress in (0.0, 1.0)] == [1.0, 1.0]
    with pytest.raises(ValidationError, match="must have a length > 0"):
        Ramp(start=0.2)


def test_mixture_leaves_out_zero_shares() -> None:
    mix = LossMix.mixture(forward=0.9, second_order=0.1)
    assert list(mix.active) == ["forward", "second_order"]
    assert mix.second_order == SecondOrder(share=0.1, ramp=Ramp(length=0.3))
    assert LossMix.mixture(second_order=1.0).second_order == SecondOrder(share=1.0)
    assert LossMix.model_validate(mix.model_dump(mode="json")) == mix


def test_faulty_mixtures_are_refused_with_a_remedy() -> None:
    with pytest.raises(ValidationError, match="at least one loss must be active"):
        LossMix()
    with pytest.raises(ValidationError, match=r"sum to 1.5; divide each by 1.5"):
        LossMix.mixture(backward=0.5, forward=1.0)
    with pytest.raises(ValidationError, match="sum to 0; raise a positive one"):
        LossMix.mixture(backward=0.5, second_order=-0.5)
    with pytest.raises(ValidationError, match="remove the ramp of one of backward, second_order"):
        LossMix(
            backward=Backward(share=1.5, ramp=Ramp(length=0.1)),
            second_order=SecondOrder(share=-0.5),
        )
    with pytest.raises(ValidationError, match=r"at progress 0 .*second_order=-0.5\) sum to 0, "):
        LossMix(
            backward=Backward(share=1.0, ramp=Ramp(length=0.1)),
            forward=Forward(share=0.5),
            second_order=SecondOrder(share=-0.5),
        )


def test_flow_matching_alone_is_the_squared_distance_to_the_velocity() -> None:
    mix = LossMix(flow_matching=FlowMatching())
    inputs = random_inputs(diagonal=3)
    assert mix.needs == frozenset()
    assert torch.equal(mixed(mix, inputs.u, inputs, 0.0), inputs.u - inputs.v_t)
