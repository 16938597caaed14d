"""The discrete losses tend to those they stand for, on a network for which the limits are not zero."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.jets import velocity_jet
from meanflow_tune.core.types import PathSample, expand_as
from meanflow_tune.ds_schedules import Constant, DsScheduleSettings, Exponential
from meanflow_tune.losses import (
    Backward,
    Exact,
    FiniteDifference,
    Forward,
    LossMix,
    SecondOrder,
    Solver,
    TargetInputs,
    TriConsistency,
)
from meanflow_tune.objective.loss_module import Objective
from meanflow_tune.objective.target_inputs import TargetInputMaker
from tests.support.smooth import Pass, Smooth, field, gradient, smooth_path, squared
from tests.support.tiny_run import tiny_config

RATIOS = (0.02, 0.01, 0.005)


def made(net: Smooth, path: PathSample, config: TrialConfig) -> TargetInputs:
    """The target inputs of `config` for every row."""
    maker = TargetInputMaker(net, field, config)
    with torch.no_grad():
        u, v_t = net(path.x_t, path.t, path.s), maker.path_velocity(path)
        return maker.with_derivatives(maker.without_derivatives(path, u, v_t, 1.0), 1.0)


def slopes(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize("second_part", ["teacher", "student"])
def test_tri_consistency_over_rho_tends_to_the_forward_residual(second_part: Any) -> None:
    """The limit's velocity at s is the teacher's, or the student's own on its diagonal."""
    net, path = Smooth(), smooth_path()
    forward = made(net, path, squared(LossMix.mixture(forward=1.0)))
    if second_part == "student":
        x_s = path.x_t + expand_as(path.gap, path.x_t) * forward.u
        limit = Forward().residual(forward.u, replace_v_s(forward, net(x_s, path.s, path.s)))
    else:
        limit = Forward().residual(forward.u, forward)
    assert limit.abs().mean() > 0.1
    errors = []
    for ratio in RATIOS:
        tri = TriConsistency(
            second_part=second_part,
            solver=None if second_part == "student" else Solver(method="heun", steps=2),
        )
        config = squared(LossMix(tri_consistency=tri), ds_schedule=Constant(value=ratio))
        inputs = made(net, path, config)
        errors.append(float((tri.residual(inputs.u, inputs) - limit).abs().mean()))
    assert errors[0] < 0.1 * limit.abs().mean()
    assert slopes(errors) == pytest.approx([1.0, 1.0], abs=0.1)


def replace_v_s(inputs: TargetInputs, v_s: Tensor) -> TargetInputs:
    return TargetInputs(inputs.path, inputs.v_t, inputs.u, v_s=v_s.detach(), d_s=inputs.d_s)


def test_the_split_form_is_two_jumps_of_the_student_against_one() -> None:
    """Δ u(t, s) = (Δ - ds) u(t, m) + ds u(x_m, m, s) at ρ = 1/2, the shortcut form."""
    net, path = Smooth(), smooth_path()
    tri = TriConsistency(second_part="student")
    config = squared(LossMix(tri_consistency=tri), ds_schedule=Constant(value=0.5))
    inputs = made(net, path, config)
    middle = 0.5 * (path.t + path.s)
    first = net(path.x_t, path.t, middle)
    x_m = path.x_t + expand_as(middle - path.t, first) * first
    two = 0.5 * (first + net(x_m, middle, path.s))
    residual = tri.residual(inputs.u, inputs)
    torch.testing.assert_close(residual, ((inputs.u - two) / 0.5).detach())


@pytest.mark.parametrize("order", [1, 2])
def test_differences_tend_to_the_mixed_derivative(order: Any) -> None:
    """On every row, the one with s = 1 too, where the difference looks back."""
    net, path = Smooth(), smooth_path()
    exact = velocity_jet(net, path.x_t, path.t, path.s, field(path.x_t, path.t))
    assert exact.d_t_d_s.abs().mean() > 0.05
    errors: list[Tensor] = []
    for ratio in (0.04, 0.02, 0.01):
        mix = LossMix(second_order=SecondOrder(), derivative=FiniteDifference(order=order))
        inputs = made(net, path, squared(mix, ds_schedule=Constant(value=ratio)))
        torch.testing.assert_close(inputs.d_t, exact.d_t, rtol=1e-12, atol=1e-14)
        errors.append((inputs.given("d_t_d_s") - exact.d_t_d_s).detach().abs().mean(dim=1))
    for row in range(len(path.t)):
        found = slopes([float(error[row]) for error in errors])
        assert found == pytest.approx([order] * 2, abs=0.25), f"row {row}"


def test_differences_with_a_gradient_tend_to_the_exact_gradient() -> None:
    path, found = smooth_path(), []
    for derivative, schedule in (
        (Exact(), None),
        (FiniteDifference(order=2), Constant(value=1e-3)),
    ):
        net = Smooth()
        mix = LossMix(
            forward=Forward(share=0.5),
            second_order=SecondOrder(share=0.5, stop_gradient=False),
            derivative=derivative,
        )
        Objective(net, field, squared(mix, ds_schedule=schedule))(path, 1.0).loss.backward()
        found.append(gradient(net))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("order", "nodes"), [(1, 2), (2, 3)])
def test_differences_cost_one_first_order_pass(order: Any, nodes: int) -> None:
    """Over all nodes, of which the first gives D u for the backward part."""
    mix = LossMix(
        backward=Backward(share=0.5),
        second_order=SecondOrder(share=0.5),
        derivative=FiniteDifference(order=order),
    )
    net = Smooth()
    for _ in range(2):  # the first jet pass through a network is checked by a plain evaluation
        net.passes.clear()
        made(net, smooth_path(6), squared(mix, ds_schedule=Constant(value=0.1)))
    assert net.passes == [Pass(1, 6), Pass(2, 6 * nodes)]


def test_differences_refuse_half_precision() -> None:
    mix = LossMix(second_order=SecondOrder(), derivative=FiniteDifference())
    config = squared(mix, ds_schedule=Constant(value=0.1))
    net, path = Smooth().float(), smooth_path()
    single = PathSample(*(x.float() for x in (path.x_0, path.x_1, path.x_t, path.v_t, path.t, path.s)),
                        label=None)  # fmt: skip
    assert torch.isfinite(Objective(net, field, config)(single, 1.0).loss)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match=r"needs float32 or float64.*take 'exact'"),
    ):
        Objective(net, field, config)(single, 1.0)
    half = PathSample(*(x.bfloat16() for x in (path.x_0, path.x_1, path.x_t, path.v_t, path.t, path.s)),
                      label=None)  # fmt: skip
    with pytest.raises(ValueError, match=r"got \(torch.bfloat16"):
        Objective(net.bfloat16(), field, config)(half, 1.0)


@pytest.mark.parametrize("schedule", [None, Exponential(start=0.5, end=0.01)])
@pytest.mark.parametrize(
    ("mix", "needed"),
    [
        (LossMix.mixture(backward=0.9, second_order=0.1), False),
        (LossMix.mixture(backward=0.5, tri_consistency=0.5), True),
        (LossMix(second_order=SecondOrder(), derivative=FiniteDifference()), True),
    ],
)
def test_a_ds_schedule_goes_with_a_loss_that_has_a_step(
    schedule: DsScheduleSettings | None, mix: LossMix, needed: bool
) -> None:
    if needed == (schedule is not None):
        tiny_config(losses=mix, ds_schedule=schedule)
    else:
        with pytest.raises(ValueError, match="ds_schedule belongs to"):
            tiny_config(losses=mix, ds_schedule=schedule)


def test_settings_without_a_use_are_refused() -> None:
    with pytest.raises(ValueError, match="mixed derivative, which no active loss uses"):
        LossMix(backward=Backward(), derivative=FiniteDifference())
    with pytest.raises(ValueError, match="needs a solver and the student's has none"):
        TriConsistency(second_part="student", solver=Solver())
    with pytest.raises(ValueError, match="needs a solver"):
        TriConsistency(solver=None)
    shortcut = LossMix(tri_consistency=TriConsistency(second_part="student"))
    with pytest.raises(ValueError, match=r"says nothing where ds = s - t.*0.5 is the shortcut"):
        tiny_config(losses=shortcut, ds_schedule=Constant(value=1.0))
    again = LossMix.model_validate(shortcut.model_dump(mode="json"))
    assert again == shortcut
