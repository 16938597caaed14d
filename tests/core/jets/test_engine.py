"""Compiled passes give what eager ones give, for any number of rows, and are compiled once."""

import os
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meanflow_tune.core.jets import engine as module
from meanflow_tune.core.jets.engine import EAGER, Engine, compiled
from meanflow_tune.core.jets.rules import attention
from meanflow_tune.models import MLP, DiT
from tests.support.jets.networks import NETWORKS, batch, make, relative_error
from tests.support.needs import needs

SHIPPED = {
    "mlp": MLP(width=32, blocks=2, time_features=8, condition_width=16),
    "dit": DiT(width=32, depth=2, heads=2, patch=2, time_features=8),
}


def shipped(name: str, seed: int = 0) -> nn.Module:
    """A network for [1, 8, 8] and five classes whose derivatives are all far from zero."""
    generator = torch.Generator().manual_seed(seed)
    network = SHIPPED[name].build((1, 8, 8), 5, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def inputs(rows: int, *shape: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x, v = torch.randn(2, rows, *shape, generator=generator)
    t = 0.5 * torch.rand(rows, generator=generator)
    return x, t, t + 0.3, v, torch.randint(5, (rows,), generator=generator)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The compiled passes as Dynamo traces them, without machine code, which takes minutes."""
    real = torch.compile

    def without_code(function: Any, **options: Any) -> Any:
        return real(function, backend="eager", **options)

    monkeypatch.setattr(module.torch, "compile", without_code)
    torch._dynamo.reset()
    compiled.cache_clear()
    yield compiled()
    torch._dynamo.reset()
    compiled.cache_clear()


@pytest.fixture
def whole() -> Iterator[Engine]:
    needs(os.environ.get("CXX", "g++"), "to compile for the processor")
    torch._dynamo.reset()
    compiled.cache_clear()
    yield compiled()
    torch._dynamo.reset()
    compiled.cache_clear()


def passes(
    engine: Engine, network: nn.Module, x: Tensor, t: Tensor, s: Tensor, v: Tensor, label: Tensor
) -> dict[str, Tensor]:
    """All components of all passes by name."""
    named = {
        "full": engine.velocity_jet(network, x, t, s, v, label=label),
        "along": engine.directional_jet(network, x, t, s, v, 1.0, 0.0, label=label),
        "end": engine.directional_jet(network, x, t, s, None, 0.0, 1.0, label=label),
    }
    found = {
        f"{name}.{field.name}": getattr(jet, field.name)
        for name, jet in named.items()
        for field in fields(jet)
    }
    return found | {"forward": engine.forward(network, x, t, s, label=label)}


def assert_equal_passes(engine: Engine, network: nn.Module, given: Any, tolerance: float) -> None:
    with torch.no_grad():
        found, expected = (passes(e, network, *given) for e in (engine, EAGER))
    for name, value in expected.items():
        assert relative_error(found[name], value) < tolerance, name


def assert_equal_gradients(engine: Engine, network: nn.Module, given: Any, limit: float) -> None:
    """Of a sum of all components with fixed weights, in every parameter."""
    parameters = list(network.parameters())
    gradients = []
    for each in (engine, EAGER):
        parts = passes(each, network, *given)
        score = sum(
            (part * torch.sin(torch.arange(part.numel()) + 1.0).view_as(part)).sum()
            for part in parts.values()
        )
        assert isinstance(score, Tensor)
        gradients.append(torch.autograd.grad(score, parameters, allow_unused=True))
    # Of the largest of all, for that of a bias before a norm is nothing but rounding.
    largest = max(float(g.abs().max()) for g in gradients[1] if g is not None)
    for found, expected in zip(*gradients, strict=True):
        assert (found is None) == (expected is None)
        if expected is not None:
            own = float(expected.abs().max())
            assert float((found - expected).abs().max()) < limit * max(own, 1e-3 * largest)


@pytest.mark.parametrize("name", ["mlp", pytest.param("dit", marks=pytest.mark.slow)])
def test_traced_passes_of_the_shipped_networks(name: str, traced: Engine) -> None:
    network = shipped(name)
    assert_equal_passes(traced, network, inputs(6, 1, 8, 8), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_traced_gradients_of_the_shipped_networks(name: str, traced: Engine) -> None:
    assert_equal_gradients(traced, shipped(name), inputs(6, 1, 8, 8), 1e-4)


# torch cannot trace two of its own functions: the check of a padding mask, and checkpointing
# with what is no tensor.
UNTRACED = {"stock encoder, norm first", "stock encoder, norm last", "checkpointed"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in UNTRACED])
def test_traced_passes_of_other_networks(name: str, traced: Engine) -> None:
    """In one graph, or torch raises: a mask, in-place operators, tuples of jets, numbers on the left."""
    network = make(name)
    x, t, s, v, label = batch(network.shape)  # type: ignore[arg-type]
    assert_equal_passes(traced, network, (x, t, s, v, label), 1e-10)
    assert_equal_gradients(traced, network, (x, t, s, v, label), 1e-8)


@pytest.mark.slow
def test_blocks_of_attention_are_traced_with_their_recomputation(
    traced: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "block_rows", lambda *_: 4)
    network = make("boolean mask")
    given = batch(network.shape)  # type: ignore[arg-type]
    assert_equal_passes(traced, network, given, 1e-10)
    assert_equal_gradients(traced, network, given, 1e-8)


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_neither_rows_nor_weights_nor_directions_compile_again(traced: Engine) -> None:
    """The trap: a size of 1, strides, storage offsets, numbers and modules may all be compiled in."""
    with torch.no_grad():
        passes(traced, shipped("mlp"), *inputs(6, 1, 8, 8))
        before = graphs()
        for seed, rows in ((1, 1), (2, 2), (3, 32)):
            network = shipped("mlp", seed)
            assert_equal_passes(traced, network, inputs(rows, 1, 8, 8), 1e-4)
            strided = [part[::2] for part in inputs(2 * rows, 1, 8, 8)]
            assert_equal_passes(traced, network, strided, 1e-4)
            x, t, s, v, label = inputs(rows, 1, 8, 8)
            traced.directional_jet(network, x, t, s, v, 0.7, 0.0, label=label)
    assert graphs() == before
    with torch.no_grad():
        network = MLP(width=16, blocks=1).build((1, 8, 8), 5, torch.Generator())
        traced.forward(network, x, t, s, label=label)
    assert graphs() == before + 1, "another architecture is compiled: the count above counts"


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_compiled_passes_of_the_shipped_networks(name: str, whole: Engine) -> None:
    """With machine code (the trap: inductor has dropped tangents silently, pytorch 187284)."""
    for rows in (6, 17):
        assert_equal_passes(whole, shipped(name), inputs(rows, 1, 8, 8), 1e-4)


@pytest.mark.slow
def test_compiled_gradients(whole: Engine) -> None:
    assert_equal_gradients(whole, shipped("mlp"), inputs(6, 1, 8, 8), 1e-4)


class WritesIntoWhatHasAnotherName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h = x * s[:, None]
        skip = h
        h += self.bias
        return h * skip


class AsksWhatItIs(nn.Module):
    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x * s[:, None] if torch.is_tensor(x) else x


@pytest.mark.parametrize("network", [WritesIntoWhatHasAnotherName(), AsksWhatItIs()])
def test_compiled_code_is_compared_with_the_network_as_it_is_written(
    network: nn.Module, traced: Engine
) -> None:
    """The trap: Dynamo makes a sum of `jet += tensor`, which other names of the jet do not see."""
    x, t, s, v, _ = inputs(6, 3)
    with pytest.raises(RuntimeError, match=r"other derivatives|another value"):
        traced.velocity_jet(network, x, t, s, v)
    with pytest.raises(RuntimeError, match=r"other derivatives|another value"):
        traced.directional_jet(network, x, t, s, dx=v, dt=1.0, ds=0.0)


class Refused(nn.Module):
    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Printing(nn.Module):
    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x * 2.0


@pytest.mark.parametrize(
    "network, named", [(Refused(), "UnsupportedOperator.*bessel_j0"), (Printing(), "graph_break")]
)
def test_what_is_no_single_graph_is_an_error(
    network: nn.Module, named: str, traced: Engine
) -> None:
    x, t, s, v, _ = inputs(4, 3)
    with pytest.raises(RuntimeError, match=rf"one graph.*{named}.*`compile` to false"):
        traced.velocity_jet(network, x, t, s, v)


def test_a_missing_compiler_is_named_with_the_remedy(whole: Engine) -> None:
    from torch._inductor import config

    x, t, s, _, _ = inputs(4, 3)
    # Not by monkeypatch, which takes such a setting away when it is undone.
    missing = config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    with missing, pytest.raises(RuntimeError, match=r"^`compile` needs a C\+\+ compiler.*false"):
        whole.forward(lambda x, t, s: torch.sin(x) * 2.0, x, t, s)
