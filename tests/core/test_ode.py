"""Solvers: orders of convergence on a flow with a closed form, and times of each sample's own."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from meanflow_tune.core.ode import Method, integrate
from tests.support.closed_form import flow_batch, gaussian_flow

METHODS = (("euler", 1, 1), ("heun", 2, 2), ("rk4", 4, 4))


@pytest.mark.parametrize("method, order, _", METHODS)
def test_order_of_convergence(method: Method, order: int, _: int) -> None:
    flow = gaussian_flow()
    x, t, s = flow_batch(flow)
    exact = flow.flow(x, t, s)
    errors = [
        float((integrate(flow.velocity, x, t, s, steps, method) - exact).abs().max())
        for steps in (16, 32, 64)
    ]
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([order, order], abs=0.15)


@pytest.mark.parametrize("method, _, evaluations", METHODS)
def test_evaluations_stay_inside_the_interval(method: Method, _: int, evaluations: int) -> None:
    x = torch.ones(4, 2)
    start = torch.tensor([0.0, 0.1, 0.3, 0.7])
    end = torch.tensor([1.0, 0.9, 0.3, 0.71])
    seen: list[Tensor] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return x

    out = integrate(velocity, x, start, end, 7, method)
    times = torch.stack(seen)
    assert len(seen) == 7 * evaluations
    assert (times >= start).all()
    assert (times <= end).all()
    assert torch.equal(times[0], start)
    if method != "euler":
        assert torch.equal(times[-1], end)
    assert torch.equal(out[2], x[2])  # an empty interval moves nothing


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
def test_numbers_and_tensors_as_times_agree(method: Method) -> None:
    flow = gaussian_flow((1, 2, 2))
    x, t, _ = flow_batch(flow, batch=3)
    alike = integrate(flow.velocity, x, torch.full_like(t, 0.25), torch.ones_like(t), 3, method)
    assert torch.equal(integrate(flow.velocity, x, 0.25, 1.0, 3, method), alike)


def test_backward_in_time_undoes_forward() -> None:
    flow = gaussian_flow()
    x, t, s = flow_batch(flow)
    there = integrate(flow.velocity, x, t, s, 64, "rk4")
    back = integrate(flow.velocity, there, s, t, 64, "rk4")
    torch.testing.assert_close(back, x, rtol=0.0, atol=1e-7)


def test_rk4_is_exact_on_cubics_in_time() -> None:
    x = torch.zeros(1, 1, dtype=torch.float64)
    out = integrate(lambda x, t: (4.0 * t**3).reshape(1, 1), x, 0.0, 1.0, 1, "rk4")
    assert out.item() == pytest.approx(1.0, abs=1e-15)


def test_faulty_arguments_are_refused() -> None:
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="steps >= 1"):
        integrate(lambda x, t: x, x, 0.0, 1.0, 0, "euler")
    with pytest.raises(ValueError, match="euler, heun, rk4"):
        integrate(lambda x, t: x, x, 0.0, 1.0, 1, "midpoint")
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        integrate(lambda x, t: x, x, torch.zeros(2), 1.0, 1, "euler")
