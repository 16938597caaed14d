"""The closed form itself, against automatic differentiation of its own u, which is written once."""

import torch
from torch.func import jvp

from meanflow_tune.core.types import expand_as
from tests.support.closed_form import flow_batch, gaussian_flow


def test_derivatives_are_those_of_u() -> None:
    flow = gaussian_flow((2, 3))
    x, t, s = flow_batch(flow)
    one = torch.ones_like(t)
    along = (flow.velocity(x, t), one)

    def d_s(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return jvp(lambda s: flow(x, t, s), (s,), (one,))[1]

    jet = flow.jet(x, t, s)
    u, d_t = jvp(lambda x, t: flow(x, t, s), (x, t), along)
    first, mixed = jvp(d_s, (x, t), along)
    for ours, theirs in ((jet.u, u), (jet.d_s, first), (jet.d_t, d_t), (jet.d_t_d_s, mixed)):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-13)


def test_u_jumps_to_the_end_of_the_flow_and_is_the_velocity_on_the_diagonal() -> None:
    flow = gaussian_flow()
    x, t, s = flow_batch(flow)
    jump = x + expand_as(s - t, x) * flow(x, t, s)
    torch.testing.assert_close(jump, flow.flow(x, t, s), rtol=0.0, atol=1e-14)
    torch.testing.assert_close(flow(x, t, t), flow.velocity(x, t), rtol=0.0, atol=1e-14)


def test_the_flow_follows_the_velocity_and_ends_in_the_data_distribution() -> None:
    flow = gaussian_flow((2,), std=0.4)
    x, t, s = flow_batch(flow)
    _, moved = jvp(lambda s: flow.flow(x, t, s), (s,), (torch.ones_like(s),))
    torch.testing.assert_close(moved, flow.velocity(flow.flow(x, t, s), s), rtol=0.0, atol=1e-13)
    x_0 = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    end = flow.flow(x_0, zero, zero + 1.0)
    torch.testing.assert_close(end, flow.mean + 0.4 * x_0, rtol=0.0, atol=1e-14)


def test_second_derivative_of_the_velocity() -> None:
    flow = gaussian_flow()
    x, t, _ = flow_batch(flow)
    one = torch.ones_like(t)

    def along(f):
        return lambda x, t: jvp(f, (x, t), (flow.velocity(x, t), one))[1]

    twice = along(along(flow.velocity))(x, t)
    torch.testing.assert_close(flow.velocity_second_derivative(x, t), twice, rtol=0.0, atol=1e-12)
