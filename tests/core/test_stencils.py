"""Difference quotients in s: orders of convergence, and nodes that stay where they may."""

import math
from itertools import pairwise

import pytest
import torch

from meanflow_tune.core.stencils import end_time_stencil


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("end", [0.4, 1.0])
def test_order_of_convergence(order: int, end: float) -> None:
    s = torch.tensor([end], dtype=torch.float64)
    errors = []
    for step in (0.04, 0.02, 0.01):
        stencil = end_time_stencil(s, torch.full_like(s, step), order)
        change = torch.exp(1.5 * stencil.nodes) - torch.exp(1.5 * s)
        slope = (stencil.coefficients * change).sum(dim=0)
        errors.append(abs(float(slope) - 1.5 * math.exp(1.5 * end)))
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([order] * 2, abs=0.1)


@pytest.mark.parametrize("order", [1, 2])
def test_polynomials_up_to_the_order_are_exact(order: int) -> None:
    s = torch.tensor([0.2, 0.9, 1.0], dtype=torch.float64)
    stencil = end_time_stencil(s, torch.full_like(s, 0.15), order)
    for degree in range(order + 1):
        slope = (stencil.coefficients * (stencil.nodes**degree - s**degree)).sum(dim=0)
        expected = degree * s ** max(degree - 1, 0)
        torch.testing.assert_close(slope, expected, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("order", [1, 2])
def test_no_node_leaves_the_interval_that_the_step_fits_into(order: int) -> None:
    generator = torch.Generator().manual_seed(0)
    t, gap, ratio = torch.rand(3, 1000, generator=generator)
    s = t + gap * (1.0 - t)
    s[:10] = 1.0
    stencil = end_time_stencil(s, ratio * (s - t), order)
    assert (stencil.nodes <= 1.0).all()
    assert (stencil.nodes >= t - 1e-6).all()


@pytest.mark.parametrize("order", [1, 2])
def test_single_precision_loses_no_more_than_the_rounding_of_values(order: int) -> None:
    """Dividing by the step requested, not by that taken after rounding, would be off by 3e-3."""
    s = torch.linspace(0.3, 1.0, 64)
    step = 1e-5
    stencil = end_time_stencil(s, torch.full_like(s, step), order)
    change = torch.exp(1.5 * stencil.nodes.double()) - torch.exp(1.5 * s.double())
    slope = (stencil.coefficients.double() * change).sum(dim=0)
    exact = 1.5 * torch.exp(1.5 * s.double())
    assert ((slope - exact) / exact).abs().max() < 2e-5


@pytest.mark.parametrize("order", [1, 2])
def test_a_step_that_rounding_swallows_gives_no_infinity(order: int) -> None:
    """Where s + ds == s in float32 the quotient would be 0 / 0, and a healthy trial would diverge."""
    s = torch.tensor([0.3, 0.5, 1.0, 1.0])
    step = torch.tensor([1e-9, 1e-8, 1e-9, 4e-8])
    stencil = end_time_stencil(s, step, order)
    assert torch.isfinite(stencil.coefficients).all()
    assert (stencil.coefficients == 0).all()


def test_other_orders_are_refused() -> None:
    with pytest.raises(ValueError, match="order must be 1 or 2, but got"):
        end_time_stencil(torch.ones(1), torch.ones(1), 3)
