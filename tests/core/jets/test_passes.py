"""The derivative pass against a closed form, central differences and torch's own derivatives."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn import functional as F

from meanflow_tune.core.jets import (
    Jet,
    UnsupportedOperator,
    directional_jet,
    velocity_jet,
)
from meanflow_tune.core.types import VelocityJet
from tests.support.closed_form import flow_batch, gaussian_flow
from tests.support.jets.networks import NETWORKS, batch, central_differences, make, relative_error

W = torch.linspace(-1.0, 1.3, 12, dtype=torch.float64).reshape(3, 4)
P = W.exp()
COMPONENTS = ("u", "d_s", "d_t", "d_t_d_s")


def assert_close(found: VelocityJet, expected: VelocityJet, tolerance: float) -> None:
    for name in COMPONENTS:
        error = relative_error(getattr(found, name), getattr(expected, name))
        assert error < tolerance, f"{name}: relative error {error:.1e}"


# --- against independent references ---------------------------------------------------------------


def test_closed_form_gaussian_flow() -> None:
    flow = gaussian_flow((2, 3))
    x, t, s = flow_batch(flow)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            found = velocity_jet(flow, x, t, s, flow.velocity(x, t))
        assert_close(found, flow.jet(x, t, s), 1e-12)


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_against_central_differences(name: str, grad: bool) -> None:
    network = make(name)
    x, t, s, v, label = batch(network.shape)
    before = x.clone(), t.clone(), s.clone(), v.clone()
    with torch.set_grad_enabled(grad):
        found = velocity_jet(network, x, t, s, v, label=label)
    assert_close(found, central_differences(network, x, t, s, v, label=label), 1e-7)
    assert found.u.requires_grad == grad
    assert torch.equal(found.u.detach().isfinite(), torch.ones_like(x, dtype=torch.bool))
    assert all(map(torch.equal, before, (x, t, s, v)))


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("name", NETWORKS)
def test_first_order_is_part_of_the_full_jet(name: str, grad: bool) -> None:
    network = make(name)
    x, t, s, v, label = batch(network.shape)
    dt, ds = torch.linspace(-1, 1, 4, dtype=x.dtype), torch.linspace(0.5, 2, 4, dtype=x.dtype)
    with torch.set_grad_enabled(grad):
        full = velocity_jet(network, x, t, s, v, label=label)
        along = directional_jet(network, x, t, s, v, 1.0, 0.0, label=label)
        end = directional_jet(network, x, t, s, None, 0.0, 1.0, label=label)
        mixed = directional_jet(network, x, t, s, v, dt, ds, label=label)
    assert relative_error(along.derivative, full.d_t) < 1e-12
    assert relative_error(end.derivative, full.d_s) < 1e-12
    for jet in (along, end, mixed):
        assert relative_error(jet.u, full.u) < 1e-12
    step = 1e-5
    by = step * dt
    ahead = network(x + step * v, t + by, s + step * ds, label=label)
    behind = network(x - step * v, t - by, s - step * ds, label=label)
    assert relative_error(mixed.derivative, (ahead - behind) / (2 * step)) < 1e-7


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("name", NETWORKS)
def test_float32_agrees_with_float64(name: str, grad: bool) -> None:
    exact = make(name)
    with torch.set_grad_enabled(grad):
        x, t, s, v, label = batch(exact.shape)
        expected = velocity_jet(exact, x, t, s, v, label=label)
        x, t, s, v, label = batch(exact.shape, torch.float32)
        found = velocity_jet(make(name, torch.float32), x, t, s, v, label=label)
    assert found.d_t_d_s.dtype == torch.float32
    assert_close(found, expected, 1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_every_component(name: str) -> None:
    """In one direction of parameter space, against a central difference of the jet itself."""
    network = make(name)
    x, t, s, v, label = batch(network.shape)
    parameters = list(network.parameters())
    generator = torch.Generator().manual_seed(5)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    weight = torch.randn(4, *x.shape, generator=generator, dtype=x.dtype)

    def score() -> Tensor:
        jet = velocity_jet(network, x, t, s, v, label=label)
        return torch.stack(
            [(w * getattr(jet, c)).sum() for w, c in zip(weight, COMPONENTS, strict=True)]
        )

    slopes = []
    for one in score():
        gradients = torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True)
        slopes.append(
            sum((g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None)
        )
    step, ends = 1e-5, []
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * step * d
            ends.append(score())
    assert relative_error(torch.stack(slopes), (ends[0] - ends[1]) / (2 * step)) < 1e-6


# --- the traps of nested forward mode: ours is right where it is wrong or raises --------------------


def nested(f: object, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The mixed derivative of f at x along a, then b, by torch.func."""

    def inner(y: Tensor) -> Tensor:
        return jvp(f, (y,), (a,))[1]  # type: ignore[arg-type, no-any-return]

    return jvp(inner, (x,), (b,))[1]  # type: ignore[no-any-return]


def trap(f: object) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Our mixed derivative of f (without recording a graph), the true one, and the point."""
    x, a, b = (torch.sin(W * k + k) for k in (1.0, 2.3, 3.1))
    with torch.no_grad():
        jet: Jet = f(Jet(torch.stack([x, a, b, torch.zeros_like(x)])))  # type: ignore[operator]
    h = 1e-3

    def d_a(y: Tensor) -> Tensor:
        return sum(w / h * f(y + i * h * a) for i, w in STENCIL)  # type: ignore[operator, no-any-return]

    with torch.no_grad():
        truth = sum(w / h * d_a(x + i * h * b) for i, w in STENCIL)
    return jet.parts[3], truth, (x, a, b)  # type: ignore[return-value]


STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


def test_layer_norm_is_right_where_nested_jvp_is_silently_wrong() -> None:
    def f(x: Tensor) -> Tensor:
        return F.layer_norm(x, (4,))

    ours, truth, point = trap(f)
    assert relative_error(ours, truth) < 1e-7
    assert relative_error(nested(f, *point), truth) > 1e-2, (
        "torch's nested jvp through layer_norm has been fixed: say so in docs/derivatives.md"
    )


def test_silu_is_right_without_grad_where_nested_jvp_raises() -> None:
    ours, truth, point = trap(F.silu)
    assert relative_error(ours, truth) < 1e-7
    with torch.no_grad(), pytest.raises(NotImplementedError):
        nested(F.silu, *point)


def test_attention_is_right_where_the_fast_kernel_has_no_forward_mode() -> None:
    def f(x: Tensor) -> Tensor:
        q = (x[None, None] * P).contiguous()
        return F.scaled_dot_product_attention(q, q * 2, q)[0, 0]

    ours, truth, point = trap(f)
    assert relative_error(ours, truth) < 1e-7
    with pytest.raises((NotImplementedError, RuntimeError)):
        nested(f, *point)


# --- what is refused ------------------------------------------------------------------------------


class Refuses(nn.Module):
    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return torch.special.bessel_y0(x)


def test_refusal_passes_through_a_module() -> None:
    x, t, s, v, _ = batch((3,))
    with pytest.raises(UnsupportedOperator, match="bessel_y0"):
        velocity_jet(Refuses(), x, t, s, v)


def test_shapes_that_do_not_fit_are_refused() -> None:
    flow = gaussian_flow((3,))
    x, t, s = flow_batch(flow)
    v = flow.velocity(x, t)
    with pytest.raises(ValueError, match="`t` and `s`"):
        velocity_jet(flow, x, t[:3], s, v)
    with pytest.raises(ValueError, match="`velocity`"):
        velocity_jet(flow, x, t, s, v[:, :1])
    with pytest.raises(ValueError, match=r"`velocity`.*float32.*float64"):
        velocity_jet(flow, x, t, s, v.float())
    with pytest.raises(ValueError, match=r"`velocity`.*None"):
        velocity_jet(flow, x, t, s, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`t` must be a tensor.*0\.2"):
        velocity_jet(flow, x, 0.2, s, v)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`dx`"):
        directional_jet(flow, x, t, s, v[:2], 1.0, 0.0)
    with pytest.raises(ValueError, match="`ds`"):
        directional_jet(flow, x, t, s, v, 1.0, torch.ones(3))
    with pytest.raises(ValueError, match="floating point"):
        velocity_jet(flow, x, t.long(), s, v)
    with pytest.raises(TypeError, match="one tensor"):
        velocity_jet(lambda x, t, s: (x, t), x, t, s, v)


def test_a_constant_model_has_zero_derivatives() -> None:
    x, t, s, v, _ = batch((3,))
    jet = velocity_jet(lambda x, t, s: torch.full((4, 3), math.pi, dtype=x.dtype), x, t, s, v)
    assert (jet.u == math.pi).all()
    assert not torch.stack([jet.d_s, jet.d_t, jet.d_t_d_s]).any()
    first = directional_jet(lambda x, t, s: x * x, x, t, s, None, 0.0, 1.0)
    assert torch.equal(first.u, x * x)
    assert not first.derivative.any()


# --- what a network makes of a jet and not of a tensor ----------------------------------------------


def asks_what_it_is(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    return x * s[:, None] * t[:, None].sin() if isinstance(t, Tensor) else x * s[:, None]


class Grows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        self.calls += 1
        return x * s[:, None] * self.calls


@pytest.mark.parametrize("network", [asks_what_it_is, Grows()], ids=["isinstance", "stateful"])
def test_another_value_than_without_derivatives_is_an_error(
    network: Callable[..., Tensor],
) -> None:
    x, t, s, v, _ = batch((3,))
    for _ in range(2):  # not only the first time
        with pytest.raises(RuntimeError, match=r"another value.*isinstance.*eval\(\)"):
            velocity_jet(network, x, t, s, v)


def test_the_check_is_made_once_and_draws_nothing() -> None:
    calls, x, t, s, v = [], *batch((3,))[:4]

    def noisy(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        calls.append(type(x))
        return x * s[:, None] + torch.rand(3)

    torch.manual_seed(0)
    first = velocity_jet(noisy, x, t, s, v)
    after = torch.rand(1)
    assert calls == [Jet, Tensor]
    torch.manual_seed(0)
    second = velocity_jet(noisy, x, t, s, v)
    assert calls == [Jet, Tensor, Jet]
    assert torch.equal(first.u, second.u)
    assert torch.equal(after, torch.rand(1))


def test_softplus_is_linear_beyond_its_threshold() -> None:
    x = torch.ones(1, 1, dtype=torch.float64)
    t, s = torch.tensor([0.2], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    jet = velocity_jet(
        lambda x, t, s: F.softplus(s[:, None] * x, threshold=0.1), x, t, s, torch.zeros_like(x)
    )
    assert torch.equal(jet.d_s, x)
    assert not jet.d_t_d_s.any()


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_writing_by_an_operator_into_elements(grad: bool) -> None:
    """The trap: autograd forbids to write where a result of unbind() is still a view."""
    weight = torch.eye(3, dtype=torch.float64, requires_grad=True)

    def network(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h = x @ weight
        h[:, 2] += s
        h[0] *= t[1]
        h[:, :2] *= h[:, 1:].clone()
        return h.sin()

    x, t, s, v, _ = batch((3,))
    with torch.set_grad_enabled(grad):
        found = velocity_jet(network, x, t, s, v)
    with torch.no_grad():
        assert_close(found, central_differences(network, x, t, s, v), 1e-7)


def test_numbers_of_numpy_on_the_left() -> None:
    x, t, s, v, _ = batch((3,))

    def network(two: float) -> Callable[..., Tensor]:
        return lambda x, t, s: two * x * s[:, None] + two / (two + x**2) - (two - t[:, None])

    ours, theirs = (velocity_jet(network(n), x, t, s, v) for n in (2.0, np.float64(2)))
    for name in COMPONENTS:
        assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_writes_into_an_input_without_a_derivative() -> None:
    """As SongUNet's `x.add_(embedding)` along s alone; the second time at once with zeros for x."""
    layer, calls = nn.Linear(3, 3).double(), []

    def network(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        calls.append(type(x))
        h = layer(x) + torch.rand(3, dtype=x.dtype)  # drawn again where the pass begins again
        h.add_(s[:, None].sin())
        h[:, 0] = t * s
        return torch.tanh(h)

    x, t, s, _, _ = batch((3,))
    torch.manual_seed(4)
    found = directional_jet(network, x, t, s, None, 0.0, 1.0)
    torch.manual_seed(4)
    u = network(x, t, s)
    assert calls[:2] == [Tensor, Jet]
    assert relative_error(found.u, u) < 1e-12
    inner = torch.cat([t[:, None], s[:, None].cos().expand(-1, 2)], dim=1)
    assert relative_error(found.derivative, (1 - u * u) * inner) < 1e-12
    before = len(calls)
    directional_jet(network, x, t, s, None, 0.0, 1.0)
    assert calls[before:] == [Jet]
