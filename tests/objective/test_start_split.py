"""Tri-consistency split at the start: its limits, α-Flow and SoFlow written out, cost and refusals."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from meanflow_tune.config import Guidance, TeacherOde, TrialConfig
from meanflow_tune.core.types import PathSample, expand_as
from meanflow_tune.ds_schedules import Constant, Cosine, Sigmoid
from meanflow_tune.losses import (
    Backward,
    FlowMatching,
    LossMix,
    Solver,
    TargetInputs,
    TriConsistency,
)
from meanflow_tune.objective.loss_module import Objective
from meanflow_tune.objective.target_inputs import TargetInputMaker
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.closed_form import flow_batch, gaussian_flow
from tests.support.smooth import Pass, Smooth, field, gradient, smooth_path, squared
from tests.support.tiny_run import tiny_config

START = LossMix(tri_consistency=TriConsistency(split="start"))
RATIOS = (0.02, 0.01, 0.005)
Array = npt.NDArray[np.float64]


def start(ratio: float = 0.3, **changes: Any) -> TrialConfig:
    return squared(START, ds_schedule=Constant(value=ratio), **changes)


def target_inputs(
    net: Any, path: PathSample, config: TrialConfig, teacher: Any = field
) -> TargetInputs:
    maker = TargetInputMaker(net, teacher, config, null_label=1)
    with torch.no_grad():
        u, v_t = net(path.x_t, path.t, path.s, path.label), maker.path_velocity(path)
        return maker.with_derivatives(maker.without_derivatives(path, u, v_t, 1.0), 1.0)


def residual(net: Any, path: PathSample, config: TrialConfig, teacher: Any = field) -> Tensor:
    inputs = target_inputs(net, path, config, teacher)
    (loss,) = config.losses.active.values()
    return loss.residual(inputs.u, inputs)


def slopes(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize("source", ["teacher", "from_scratch"])
def test_over_rho_it_tends_to_the_backward_residual(source: str) -> None:
    """On a network that is no flow map, by the teacher's velocity and by the conditional one."""
    net, path = Smooth(), smooth_path()
    limit = residual(net, path, squared(LossMix(backward=Backward()), velocity_source=source))
    assert limit.abs().mean() > 0.1
    errors = [
        float((residual(net, path, start(ratio, velocity_source=source)) - limit).abs().mean())
        for ratio in RATIOS
    ]
    assert errors[0] < 0.1 * limit.abs().mean()
    assert slopes(errors) == pytest.approx([1.0, 1.0], abs=0.1)


def test_on_an_exact_flow_only_the_error_of_the_euler_step_remains() -> None:
    """x_t + ds v_t misses the trajectory by O(ds²): over ρ the residual is of first order."""
    flow = gaussian_flow()
    x, t, s = flow_batch(flow)
    path = PathSample(x, x, x, torch.zeros_like(x), t, s, None)
    errors = [
        float(residual(flow, path, start(ratio), flow.velocity).abs().max()) for ratio in RATIOS
    ]
    assert errors[0] < 0.2
    assert slopes(errors) == pytest.approx([1.0, 1.0], abs=0.1)


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_its_gradient_tends_to_that_of_backward(stop_gradient: bool) -> None:
    def of(mix: LossMix, **changes: Any) -> Tensor:
        net = Smooth()
        Objective(net, field, squared(mix, **changes))(smooth_path(), 1.0).loss.backward()
        return gradient(net)

    limit = of(LossMix(backward=Backward(stop_gradient=stop_gradient)))
    split = LossMix(tri_consistency=TriConsistency(split="start", stop_gradient=stop_gradient))
    errors = [
        float((of(split, ds_schedule=Constant(value=ratio)) - limit).norm()) for ratio in RATIOS
    ]
    assert errors[0] < 0.1 * limit.norm()
    assert slopes(errors) == pytest.approx([1.0, 1.0], abs=0.1)


def test_at_ratio_one_it_trains_by_flow_matching() -> None:
    """Where a schedule says 1, and elsewhere not."""
    found = {}
    schedule = Sigmoid(start=1.0, end=0.1, begin=0.5, snap=5e-3)
    for name, mix, progress in (
        ("start", START, 0.2),
        ("later", START, 0.9),
        ("flow matching", LossMix(flow_matching=FlowMatching()), 0.2),
    ):
        net = Smooth()
        config = squared(mix, ds_schedule=schedule if mix is START else None)
        Objective(net, field, config)(smooth_path(), progress).loss.backward()
        found[name] = gradient(net)
    torch.testing.assert_close(found["start"], found["flow matching"], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(found["later"], found["flow matching"], rtol=0.1)


def reversed_student(net: Smooth) -> Callable[[Array, Array, Array], Array]:
    """u(z, r, t) of the papers (data at 0, noise at 1, r <= t) by the weights of `net`, in numpy."""
    inner, shift, outer, bias = (
        p.detach().numpy() for p in (net.inner, net.shift, net.outer, net.bias)
    )

    def u(z: Array, r: Array, t: Array) -> Array:
        inputs = np.concatenate([z, 1.0 - t, 1.0 - r], axis=1)
        return -(np.tanh(inputs @ inner.T + shift) @ outer.T + bias) / 3.0

    return u


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.5, 1.0])
def test_from_scratch_it_is_alpha_flow(alpha: float) -> None:
    """E α⁻¹ ‖u(z_t, r, t) - (α v + (1 - α) sg[u(z_s, r, s)])‖² with data at 0 and noise at 1, where
    s = α r + (1 - α) t and z_s = z_t - (t - s) v.
    """
    net, path = Smooth(), smooth_path()
    u = reversed_student(net)
    data, noise = path.x_1.numpy(), path.x_0.numpy()
    t, r = 1.0 - path.t.numpy()[:, None], 1.0 - path.s.numpy()[:, None]
    z_t, v = (1.0 - t) * data + t * noise, noise - data
    s = alpha * r + (1.0 - alpha) * t
    z_s = z_t - (t - s) * v
    target = alpha * v + (1.0 - alpha) * u(z_s, r, s)
    difference = u(z_t, r, t) - target
    # Ours is divided by ρ = α, and every velocity has the other sign.
    # A schedule that is always 1 is refused; this one ends there.
    schedule = Constant(value=alpha) if alpha < 1.0 else Cosine(start=0.5, end=1.0)
    config = squared(START, ds_schedule=schedule, velocity_source="from_scratch")
    ours = residual(net, path, config)
    np.testing.assert_allclose(-alpha * ours.numpy(), difference, rtol=0.0, atol=1e-12)
    identity = target_inputs(net, path, config).u.numpy() - alpha * ours.numpy()
    np.testing.assert_allclose(-identity, target, rtol=0.0, atol=1e-12)
    # Their weight 1/α is ours: half the gradient of a mean square is the mean of residual · ∂u.
    Objective(net, None, config)(path, 1.0).loss.backward()
    of_u = torch.autograd.grad(
        net(path.x_t, path.t, path.s),
        tuple(net.parameters()),
        torch.from_numpy(-2.0 / alpha * difference / difference.size),
    )
    theirs = torch.cat([each.flatten() for each in of_u])
    torch.testing.assert_close(gradient(net), theirs, rtol=1e-9, atol=1e-12)


def test_from_scratch_it_is_the_solution_consistency_of_soflow() -> None:
    """f(x_t, t, s) - sg[f(x_l, l, s)] with f = x + (s - t) u and x_l on the pair's straight path."""
    net, path, ratio = Smooth(), smooth_path(), 0.2
    ours = residual(net, path, start(ratio, velocity_source="from_scratch"))

    def solution(x: Tensor, t: Tensor) -> Tensor:
        return x + (path.s - t)[:, None] * net(x, t, path.s)

    later = path.t + ratio * path.gap
    x_l = torch.lerp(path.x_0, path.x_1, later[:, None])
    theirs = (solution(path.x_t, path.t) - solution(x_l, later)).detach()
    scale = ratio * expand_as(path.gap, ours)
    torch.testing.assert_close(scale * ours, theirs, rtol=0.0, atol=1e-12)


def test_it_costs_one_more_evaluation_and_no_derivative() -> None:
    """Of the rows with t < s, without an x_s whatever its source; the velocity is asked for once."""
    net, calls = Smooth(), []

    def teacher(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        calls.append(len(x))
        return field(x, t)

    config = start(x_source=TeacherOde(solver=Solver(method="rk4", steps=4)))
    Objective(net, teacher, config)(smooth_path(8, diagonal=2), 1.0).loss.backward()
    assert net.passes == [Pass(1, 8), Pass(1, 6)]
    assert calls == [8]
    net.passes.clear()
    scratch = start(velocity_source="from_scratch")
    Objective(net, None, scratch)(smooth_path(8), 1.0).loss.backward()
    assert net.passes == [Pass(1, 8), Pass(1, 8)]


def test_the_step_is_by_the_guided_velocity() -> None:
    """From scratch with guidance both the target and the point x_{t+ds} take the guided velocity."""
    net, plain = Smooth(), smooth_path()
    path = PathSample(plain.x_0, plain.x_1, plain.x_t, plain.v_t, plain.t, plain.s,
                      label=torch.zeros(8, dtype=torch.long))  # fmt: skip
    config = start(velocity_source="from_scratch", guidance=Guidance(scale=2.0), label_dropout=0.1,
                   teacher=None, evaluation=None)  # fmt: skip
    inputs = target_inputs(net, path, config)
    v = 2.0 * (path.x_1 - path.x_0) - net(path.x_t, path.t, path.t).detach()
    ds = 0.3 * path.gap
    after = net(path.x_t + ds[:, None] * v, path.t + ds, path.s).detach()
    torch.testing.assert_close(inputs.given("u_after"), after, rtol=0.0, atol=1e-12)
    both = 0.3 * v + 0.7 * after
    theirs = inputs.u - 0.3 * START.active["tri_consistency"].residual(inputs.u, inputs)
    torch.testing.assert_close(theirs, both, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("source", ["teacher", "from_scratch"])
def test_every_setting_of_it_changes_the_training(source: str) -> None:
    def trained(config: TrialConfig) -> Tensor:
        run = Run.start(config, World(), config.data.load(), lambda x, t, label=None: x.flip(1))
        for _ in range(3):
            run.advance(run.objective)
        return torch.cat([weight.flatten() for weight in run.ema.weights.values()])

    def config(ratio: float = 0.3, **tri: Any) -> TrialConfig:
        mix = LossMix(
            tri_consistency=TriConsistency(share=0.6, **tri), flow_matching=FlowMatching(share=0.4)
        )
        return tiny_config(losses=mix, ds_schedule=Constant(value=ratio), velocity_source=source)

    found = [
        trained(config(split="start")),
        trained(config(second_part="student")),
        trained(config(split="start", stop_gradient=False)),
        trained(config(split="start", ratio=0.6)),
    ]
    assert all(torch.isfinite(weights).all() for weights in found)
    for index, weights in enumerate(found):
        assert not any(torch.equal(weights, other) for other in found[:index])


def test_stored_settings_mean_the_split_at_the_end() -> None:
    stored = {"kind": "tri_consistency", "share": 0.5, "second_part": "student", "solver": None}
    assert TriConsistency.model_validate(stored) == TriConsistency(share=0.5, second_part="student")
    assert TriConsistency.model_validate({"kind": "tri_consistency"}).split == "end"
    assert TriConsistency().needs == {"u_split", "ode_velocity", "ratio"}


def test_it_has_no_solver_and_no_teacher_for_its_second_part() -> None:
    tri = TriConsistency(split="start")
    assert (tri.second_part, tri.solver) == ("student", None)
    assert tri == TriConsistency(split="start", second_part="student", solver=None)
    assert TriConsistency.model_validate(tri.model_dump(mode="json")) == tri
    assert tri.needs == {"u_after", "ratio"}
    assert START.differences
    with pytest.raises(ValueError, match=r"set second_part to 'student' and solver to null"):
        TriConsistency(split="start", second_part="teacher")
    with pytest.raises(ValueError, match="the student's has none"):
        TriConsistency(split="start", solver=Solver())


def test_a_schedule_that_makes_it_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'start' is flow matching.*take losses.flow_matching"):
        start(1.0)
    assert start(0.99).ds_schedule == Constant(value=0.99)
    with pytest.raises(ValueError, match="ds_schedule belongs to"):
        squared(START)
    with pytest.raises(ValueError, match=r"ratio >= 0.1.*take precision 'float32'"):
        start(0.05, precision="bfloat16")
    assert start(0.1, precision="bfloat16").precision == "bfloat16"
