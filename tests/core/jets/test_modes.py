"""The derivative pass under the modes and arguments that networks and trainers use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from meanflow_tune.core.jets import (
    Jet,
    UnsupportedOperator,
    directional_jet,
    errors,
    velocity_jet,
)
from meanflow_tune.core.types import VelocityJet
from tests.support.jets.architectures import Checkpointed, ConvNext
from tests.support.jets.networks import NETWORKS, batch, central_differences, make, relative_error

COMPONENTS = ("u", "d_s", "d_t", "d_t_d_s")


def assert_close(found: VelocityJet, expected: VelocityJet, tolerance: float = 1e-7) -> None:
    for name in COMPONENTS:
        error = relative_error(getattr(found, name), getattr(expected, name))
        assert error < tolerance, f"{name}: relative error {error:.1e}"


def same(found: VelocityJet, expected: VelocityJet) -> None:
    for name in COMPONENTS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


# --- gradients: checkpointing, custom functions, no_grad -------------------------------------------


def checkpointed(enabled: bool, use_reentrant: bool) -> Checkpointed:
    torch.manual_seed(5)
    return Checkpointed(enabled, use_reentrant).double()


def test_checkpointing_changes_neither_components_nor_gradients() -> None:
    x, t, s, v, label = batch((4,))
    gradients = []
    for enabled in (False, True):
        network = checkpointed(enabled, use_reentrant=False)
        jet = velocity_jet(network, x, t, s, v, label=label)
        torch.stack(
            [(i + 1) * getattr(jet, c).square().sum() for i, c in enumerate(COMPONENTS)]
        ).sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(one is not None and one.any() for one in gradients[1])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_reentrant_checkpointing_works_without_gradients_and_is_refused_with() -> None:
    """autograd sees no tensor in a jet and would drop the gradient of the block in silence."""
    x, t, s, v, label = batch((4,))
    network = checkpointed(True, use_reentrant=True)
    with torch.no_grad():
        found = velocity_jet(network, x, t, s, v, label=label)
        same(found, velocity_jet(checkpointed(False, False), x, t, s, v, label=label))
    with pytest.raises(UnsupportedOperator, match="use_reentrant=False"):
        velocity_jet(network, x, t, s, v, label=label)
    with pytest.raises(UnsupportedOperator, match="use_reentrant=False"):
        directional_jet(network, x, t, s, v, 1.0, 0.0, label=label)
    assert errors.recording == []  # also after an error


class WithContext(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class WithoutContext(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


@pytest.mark.parametrize("function", [WithContext, WithoutContext])
def test_a_custom_function_is_followed_without_gradients_and_refused_with(function: Any) -> None:
    def network(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return function.apply(x * t[:, None])  # type: ignore[no-any-return]

    x, t, s, v, _ = batch((3,))
    with torch.no_grad():
        found = velocity_jet(network, x, t, s, v)
    assert relative_error(found.d_t, torch.cos(x * t[:, None]) * (v * t[:, None] + x)) < 1e-12
    with pytest.raises(UnsupportedOperator, match=function.__name__):
        velocity_jet(network, x, t, s, v)


def test_a_stopped_gradient_in_a_network_keeps_the_derivatives() -> None:
    """Values and derivatives as without it, and gradients as torch gives them for the plain forward."""
    layer = nn.Linear(3, 3).double()

    def frozen(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        with torch.no_grad():
            h = layer(x).tanh()
        return h * t[:, None] + layer(x).detach() * s[:, None]

    def free(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return layer(x).tanh() * t[:, None] + layer(x) * s[:, None]

    x, t, s, v, _ = batch((3,))
    same(velocity_jet(frozen, x, t, s, v), velocity_jet(free, x, t, s, v))
    assert not velocity_jet(frozen, x, t, s, v).d_t.requires_grad
    assert velocity_jet(free, x, t, s, v).d_t.requires_grad


@pytest.mark.parametrize("name", ["transformer", "convolutions", "rotary", "u-net", "temporal"])
def test_inference_mode_gives_what_no_grad_gives(name: str) -> None:
    network = make(name)
    x, t, s, v, label = batch(network.shape)  # type: ignore[arg-type]
    with torch.no_grad():
        expected = velocity_jet(network, x, t, s, v, label=label)
    with torch.inference_mode():
        found = velocity_jet(network, x, t, s, v, label=label)
    assert found.u.is_inference()
    same(found, expected)


def test_dropout_at_rest_passes_and_in_training_is_refused() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Tanh()).double()
    x, t, s, v, _ = batch((3,))
    with pytest.raises(UnsupportedOperator, match="dropout"):
        velocity_jet(lambda x, t, s: network(x), x, t, s, v)
    network.eval()
    same(
        velocity_jet(lambda x, t, s: network(x), x, t, s, v),
        velocity_jet(lambda x, t, s: network[0](x).tanh(), x, t, s, v),
    )


# --- arguments and results -------------------------------------------------------------------------


class Guided(nn.Module):
    """Takes what a trainer may hand on: a scale [B], numbers, None, nested containers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3).double()

    def forward(
        self, x: Tensor, t: Tensor, s: Tensor, *, scale: Tensor, power: int, extra: Any, none: None
    ) -> Tensor:
        assert none is None
        h = self.layer(x) * scale[:, None] + extra["shift"][0] * t[:, None] ** power
        return h.tanh() * s[:, None]


def test_keyword_arguments_pass_through_without_derivatives() -> None:
    x, t, s, v, _ = batch((3,))
    scale = torch.linspace(0.5, 2, 4, dtype=x.dtype, requires_grad=True)
    given = {"scale": scale, "power": 2, "extra": {"shift": [W0, "text"]}, "none": None}
    network = Guided()
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            found = velocity_jet(network, x, t, s, v, **given)
        assert_close(found, central_differences(network, x, t, s, v, **given))  # type: ignore[arg-type]
    found.d_t_d_s.sum().backward()
    assert scale.grad is not None
    assert scale.grad.all()


W0 = torch.linspace(-1, 1, 3, dtype=torch.float64)


@dataclass
class Output:
    sample: Tensor


@pytest.mark.parametrize(
    "wrap, inside",
    [
        (lambda u: (u,), lambda u: u[0]),
        (lambda u: {"sample": u}, lambda u: u["sample"]),
        (Output, lambda u: u.sample),
    ],
)
def test_a_model_that_returns_more_than_a_tensor_is_refused_with_the_remedy(
    wrap: Callable[[Any], Any], inside: Callable[[Any], Any]
) -> None:
    x, t, s, v, _ = batch((3,))

    def model(x: Tensor, t: Tensor, s: Tensor) -> Any:
        return wrap(x * t[:, None] * s[:, None])

    with pytest.raises(TypeError, match=r"one tensor.*lambda"):
        velocity_jet(model, x, t, s, v)
    found = velocity_jet(lambda x, t, s: inside(model(x, t, s)), x, t, s, v)
    assert relative_error(found.d_t_d_s, x + v * t[:, None]) < 1e-12


def test_complex_numbers_are_refused() -> None:
    x, t, s, v, _ = batch((3,))
    with pytest.raises(ValueError, match="floating point"):
        velocity_jet(lambda x, t, s: x, x.to(torch.complex128), t, s, v.to(torch.complex128))
    with pytest.raises(TypeError, match="complex"):
        velocity_jet(lambda x, t, s: x * 1j, x, t, s, v)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_of_one_and_an_empty_one(name: str) -> None:
    network = make(name)
    x, t, s, v, label = batch(network.shape)  # type: ignore[arg-type]
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            whole = velocity_jet(network, x, t, s, v, label=label)
            one = velocity_jet(network, x[:1], t[:1], s[:1], v[:1], label=label[:1])
            if name != "hypernetwork":  # which mixes the samples of a batch
                assert_close(one, VelocityJet(*(getattr(whole, c)[:1] for c in COMPONENTS)), 1e-10)
            try:
                network(x[:0], t[:0], s[:0], label[:0])
            except (RuntimeError, IndexError):
                continue  # torch itself has no empty batch through this network
            none = velocity_jet(network, x[:0], t[:0], s[:0], v[:0], label=label[:0])
            assert none.d_t_d_s.shape == x[:0].shape


@pytest.mark.parametrize("name", ["convolutions", "u-net", "convnext"])
def test_memory_formats_and_strides_of_inputs(name: str) -> None:
    network = make(name)
    x, t, s, v, label = batch(network.shape)  # type: ignore[arg-type]
    expected = velocity_jet(network, x, t, s, v, label=label)
    arranged = [
        (x.to(memory_format=torch.channels_last), v.to(memory_format=torch.channels_last)),
        (x.mT.contiguous().mT, v.mT.contiguous().mT),
        (
            x.repeat(2, 1, 1, 1)[::2].roll(0).expand_as(x) * 0 + x,
            v.to(memory_format=torch.channels_last),
        ),
    ]
    for grad in (False, True):
        for images, velocities in arranged:
            with torch.set_grad_enabled(grad):
                found = velocity_jet(network, images, t, s, velocities, label=label)
            assert_close(found, expected, 1e-12)
    channels_last = make(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert_close(velocity_jet(channels_last, x, t, s, v, label=label), expected, 1e-12)


def test_a_jet_keeps_channels_last() -> None:
    jet = Jet(torch.randn(4, 2, 3, 5, 6))
    for changed in (
        jet.to(memory_format=torch.channels_last),  # type: ignore[attr-defined]
        jet.contiguous(memory_format=torch.channels_last),  # type: ignore[attr-defined]
        jet.clone(memory_format=torch.channels_last),  # type: ignore[attr-defined]
    ):
        assert changed.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(changed.parts, jet.parts)
    assert ConvNext.shape == (2, 6, 6)


# --- attention modules ------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"batch_first": False, "bias": False, "add_zero_attn": True},
        {"batch_first": True, "add_bias_kv": True},
        {"batch_first": True, "kdim": 3, "vdim": 5},
    ],
    ids=str,
)
def test_stock_multihead_attention(options: dict[str, Any], training: bool) -> None:
    torch.manual_seed(2)
    module = nn.MultiheadAttention(4, 2, **options).double().train(training)
    mask = torch.ones(6, 6, dtype=torch.bool).triu(1)

    def network(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        q = x * (1 + t * s)[:, None, None]
        k, v = (q[..., :3], torch.cat([q, q[..., :1].sin()], -1)) if "kdim" in options else (q, q)
        if not options["batch_first"]:
            q, k, v = (y.transpose(0, 1) for y in (q, k, v))
        weighed, weights = module(q, k, v, attn_mask=mask)
        fast, _ = module(q, k, v, need_weights=False)
        out = weighed + fast
        out = out if options["batch_first"] else out.transpose(0, 1)
        return out * weights.square().sum((1, 2))[:, None, None]  # type: ignore[no-any-return]

    x, t, s, v, _ = batch((6, 4))
    expected = central_differences(network, x, t, s, v)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            assert_close(velocity_jet(network, x, t, s, v), expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_stock_encoder_layer_does_not_take_its_fast_path(norm_first: bool, training: bool) -> None:
    """nn.TransformerEncoderLayer in eval calls one fused kernel for tensors, which has no rule."""
    torch.manual_seed(2)
    layer = nn.TransformerEncoderLayer(
        *(4, 2, 8, 0.0, F.gelu), batch_first=True, norm_first=norm_first, dtype=torch.float64
    ).train(training)

    def network(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return layer(x * (1 + t * s)[:, None, None])  # type: ignore[no-any-return]

    x, t, s, v, _ = batch((6, 4))
    expected = central_differences(network, x, t, s, v)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            assert_close(velocity_jet(network, x, t, s, v), expected)


def test_checkpoint_inside_checkpoint() -> None:
    layer = nn.Linear(3, 3).double()

    def network(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        def inner(h: Tensor) -> Tensor:
            return checkpoint(lambda y: layer(y).tanh(), h * t[:, None], use_reentrant=False)  # type: ignore[no-any-return]

        return checkpoint(lambda h: layer(inner(h)).sin(), x * s[:, None], use_reentrant=False)  # type: ignore[no-any-return]

    x, t, s, v, _ = batch((3,))
    found = velocity_jet(network, x, t, s, v)
    assert_close(found, central_differences(network, x, t, s, v))
    (gradient,) = torch.autograd.grad(found.d_t_d_s.sum(), layer.weight)
    step = 1e-6 * torch.ones_like(layer.weight)
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            layer.weight += sign * step
            ends.append(velocity_jet(network, x, t, s, v).d_t_d_s.sum())
    assert abs(gradient.sum() - (ends[0] - ends[1]) / 2e-6) < 1e-6


def test_compiled_code_does_not_exchange_the_sides_of_a_product() -> None:
    """Of `jet @ constant` the compiler asks for the rule of `constant @ jet`: a square one is no error."""
    matrix = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x, t, s, v, _ = batch((3, 3))

    def products(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return torch.matmul(x, matrix) + torch.matmul(matrix, x)

    torch._dynamo.reset()
    found = torch.compile(velocity_jet, backend="eager")(products, x, t, s, v)
    expected = velocity_jet(lambda x, t, s: x @ matrix + matrix @ x, x, t, s, v)
    assert relative_error(found.u, expected.u) < 1e-12
    assert relative_error(found.d_t, expected.d_t) < 1e-12
    # `@` is refused while a compiler traces; where it gives up tracing, the network runs as it is.
    try:
        found = torch.compile(velocity_jet, backend="eager")(
            lambda x, t, s: x @ matrix + matrix @ x, x, t, s, v
        )
    except UnsupportedOperator as error:
        assert "use torch.matmul" in str(error)  # noqa: PT017 (or it gives what is right)
    else:
        assert relative_error(found.d_t, expected.d_t) < 1e-12
