"""The derivative pass through a flow that is not linear in x, against differences and the identities."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from meanflow_tune.core.jets import directional_jet, velocity_jet
from tests.support.jets.networks import central_differences, relative_error
from tests.support.mixture_flow import mixture_batch, mixture_flow

COMPONENTS = ("u", "d_s", "d_t", "d_t_d_s")


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_components_through_the_solver_against_central_differences(grad: bool) -> None:
    flow = mixture_flow(8)
    x, t, s = mixture_batch()
    v = flow.velocity(x, t)
    with torch.set_grad_enabled(grad):
        found = velocity_jet(flow, x, t, s, v)
        along = directional_jet(flow, x, t, s, v, 1.0, 0.0)
    expected = central_differences(flow, x, t, s, v)
    for name in COMPONENTS:
        assert relative_error(getattr(found, name), getattr(expected, name)) < 1e-8
    assert relative_error(along.derivative, expected.d_t) < 1e-8


def residuals(steps: int) -> tuple[Tensor, Tensor]:
    """Largest residual of the identities backward, forward and second order, and of what they correct."""
    flow = mixture_flow(steps)
    x, t, s = mixture_batch()
    gap, v_t = (s - t)[:, None], flow.velocity(x, t)
    with torch.no_grad():
        jet = velocity_jet(flow, x, t, s, v_t)
        v_s = flow.velocity(x + gap * jet.u, s)
    corrections = torch.stack([gap * jet.d_t, -gap * jet.d_s, -(gap**2) / 2 * jet.d_t_d_s])
    targets = torch.stack([v_t, v_s, (v_t + v_s) / 2]) + corrections
    return (targets - jet.u).abs().amax((1, 2)), corrections.abs().amax((1, 2))


def test_identities_hold_to_the_precision_of_the_solver() -> None:
    """Of order 4 in the step, so 16 times smaller at twice the steps, below 1e-6 of the terms."""
    errors = [residuals(steps) for steps in (16, 32, 64)]
    for (coarse, _), (fine, _) in itertools.pairwise(errors):
        for one, other in zip(coarse.tolist(), fine.tolist(), strict=True):
            assert 3.5 < math.log2(one / other) < 4.5
    last, size = errors[-1]
    assert (size > 0.1).all()
    assert (last / size).max() < 1e-6
