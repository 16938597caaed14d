"""Errors of the derivative pass in 16 bits against float64, and how types mix."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from meanflow_tune.core.jets import Jet, directional_jet, velocity_jet
from tests.support.closed_form import flow_batch, gaussian_flow
from tests.support.jets.networks import batch, make, relative_error
from tests.support.jets.precision_table import BUILD, COMPONENTS, OVERFLOWS

LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# 1.5 and 1.9 times the worst component of any network below, seen on one processor: 5.2e-2 and 5.3e-3
# (precision_table.py), 13 and 11 units in the last place. Kernels of other machines round elsewhere.
TOLERANCE = {"bfloat16": 0.08, "float16": 0.01}


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("how", ["autocast", "parameters"])
@pytest.mark.parametrize("name", BUILD)
def test_components_in_16_bits(name: str, how: str, low: str) -> None:
    if (name, low) in OVERFLOWS:
        pytest.skip("its plain forward overflows")
    network, dtype = BUILD[name](), LOW[low]
    if how == "parameters":
        network.to(dtype)
    given = dtype if how == "parameters" else torch.float32
    x, t, s, v, label = batch(network.shape, given)  # type: ignore[arg-type]
    with torch.no_grad():
        truth = velocity_jet(
            copy.deepcopy(network).double(), *(a.double() for a in (x, t, s, v)), label=label
        )
    for grad in (False, True):
        with (
            torch.set_grad_enabled(grad),
            torch.autocast("cpu", dtype=dtype, enabled=how == "autocast"),
        ):
            found = velocity_jet(network, x, t, s, v, label=label)
            plain = network(x, t, s, label)
            first = directional_jet(network, x, t, s, v, 1.0, 0.0, label=label)
        for component in COMPONENTS:
            one = getattr(found, component)
            assert one.dtype == given
            error = relative_error(one.detach().double(), getattr(truth, component))
            assert error < TOLERANCE[low], f"{component}: relative error {error:.1e}"
        assert relative_error(first.derivative.double(), truth.d_t) < TOLERANCE[low]
        # The value is as good as that of the plain forward, up to luck in rounding.
        ours, theirs = (relative_error(a.detach().double(), truth.u) for a in (found.u, plain))
        assert ours < 2 * theirs + 2 * torch.finfo(dtype).eps


def test_products_under_autocast_go_on_in_float32() -> None:
    jet = Jet(torch.randn(4, 3, 3))
    weight = torch.randn(3, 3)
    products: list[Callable[[Jet], Jet]] = [
        lambda x: torch.nn.functional.linear(x, weight, weight[0]),  # type: ignore[arg-type]
        lambda x: torch.matmul(x, x),  # type: ignore[arg-type]
        lambda x: torch.matmul(weight, x),  # type: ignore[arg-type]
        lambda x: torch.einsum("ij,kj->ik", x, x),  # type: ignore[arg-type]
        lambda x: torch.einsum("ij,kj->ik", x, weight),  # type: ignore[arg-type]
        lambda x: torch.tensordot(x, x, 1),  # type: ignore[arg-type]
        lambda x: torch.conv1d(x[None], weight[:, :, None]),  # type: ignore[arg-type]
        lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x),  # type: ignore[arg-type]
    ]
    for product in products:
        exact = product(jet).parts
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = product(jet).parts
        assert found.dtype == torch.float32
        error = relative_error(found, exact)
        assert 1e-5 < error < 0.03  # in the autocast type, and no worse than that


def test_times_of_another_type_promote_as_in_torch() -> None:
    """float64 times with float32 samples, in a flow that promotes them, and 0-axis scalars."""
    flow = gaussian_flow((3,))
    x, t, s = flow_batch(flow)
    v, x = flow.velocity(x, t).float(), x.float()
    truth = flow.jet(x.double(), t, s)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            found = velocity_jet(flow, x, t, s, v)
        assert found.d_t_d_s.dtype == torch.float32
        for component in COMPONENTS:
            one, other = getattr(found, component).double(), getattr(truth, component)
            assert relative_error(one, other) < 1e-6
    scalar, vector = Jet(torch.randn(4, dtype=torch.float64)), Jet(torch.randn(4, 3))
    for combined in (scalar * vector, vector + scalar, vector / scalar, scalar * torch.ones(3)):
        assert combined.dtype == torch.float32
    assert (Jet(torch.randn(4, 3, dtype=torch.float64)) * vector).dtype == torch.float64


def test_times_that_do_not_fit_the_parameters_raise_as_in_torch() -> None:
    network = make("transformer", torch.float32)
    x, t, s, v, _ = batch((6, 4), torch.float32)
    with pytest.raises(RuntimeError, match="dtype"):
        network(x, t.double(), s.double())
    with pytest.raises(RuntimeError, match="dtype"):
        velocity_jet(network, x, t.double(), s.double(), v)

    def converted(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return network(x, t.to(x.dtype), s.to(x))  # type: ignore[no-any-return]

    found = velocity_jet(converted, x, t.double(), s.double(), v)
    assert relative_error(found.d_t_d_s, velocity_jet(network, x, t, s, v).d_t_d_s) < 1e-5
