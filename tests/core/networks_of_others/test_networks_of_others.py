"""Networks after published architectures: every one that a module of this folder lists is tested here.

The truth are differences of order 6 of plain evaluations in float64, and for parameters their gradients.
"""

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meanflow_tune.core.jets import NonSmoothWarning, directional_jet, velocity_jet
from meanflow_tune.core.types import expand_as
from tests.support.jets.networks import batch, relative_error

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("test_"))
MODULES = [import_module(f"tests.core.networks_of_others.{name}") for name in NAMES]
NETWORKS: dict[str, Callable[[], Any]] = {
    each.__name__: each for module in MODULES for each in getattr(module, "NETWORKS", ())
}
STENCIL = ((-3, -1 / 60), (-2, 3 / 20), (-1, -3 / 4), (1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
STEP = 1.5e-3
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}


def network(name: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(7)
    made = NETWORKS[name]().to(dtype).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in made.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.5
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(scale * noise)
    return made


def components(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, t, s, v, label = inputs
    jet = velocity_jet(model, x, t, s, v, label=label)
    return jet.u, jet.d_s, jet.d_t, jet.d_t_d_s


def scores(parts: tuple[Tensor, ...]) -> list[Tensor]:
    """A number of each component, whose gradients are compared."""
    weight = torch.sin(torch.arange(parts[0].numel()) + 1).reshape(parts[0].shape)
    return [(part * weight.to(part.dtype)).sum() for part in parts]


def gradients(model: nn.Module, parts: tuple[Tensor, ...]) -> list[Tensor]:
    """Of each component's number, in all parameters as one vector."""
    parameters, found = list(model.parameters()), []
    for score in scores(parts):
        each = torch.autograd.grad(score, parameters, retain_graph=True, materialize_grads=True)
        found.append(torch.cat([g.flatten() for g in each]).detach())
    return found


@cache
def truth(name: str) -> tuple[list[Tensor], list[Tensor]]:
    """The components and their gradients."""
    model = network(name)
    x, t, s, v, label = batch(model.shape)

    def u(along: float, end: float) -> Tensor:
        shift = expand_as(torch.full_like(t, along), x)
        return model(x + shift * v, t + along, s + end, label)  # type: ignore[no-any-return]

    def d_s(along: float) -> Any:
        return sum(w / STEP * u(along, i * STEP) for i, w in STENCIL)

    d_t: Any = sum(w / STEP * u(i * STEP, 0.0) for i, w in STENCIL)
    mixed: Any = sum(w / STEP * d_s(i * STEP) for i, w in STENCIL)
    parts = (u(0.0, 0.0), d_s(0.0), d_t, mixed)
    return [part.detach() for part in parts], gradients(model, parts)


@pytest.fixture(autouse=True)
def _no_warning_of_kinks(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    yield
    others = [
        w for w in recwarn if not issubclass(w.category, NonSmoothWarning | DeprecationWarning)
    ]
    assert not others, [str(w.message) for w in others]


def test_a_dozen_networks_are_found() -> None:
    assert len(NETWORKS) >= 13


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_components_and_gradients_are_exact(name: str, dtype: torch.dtype) -> None:
    model = network(name, dtype)
    inputs = batch(model.shape, dtype)
    parts, slopes = truth(name)
    with torch.no_grad():
        plain = components(model, inputs)
    graph = components(model, inputs)
    for found in (plain, graph):
        for k, (one, other) in enumerate(zip(found, parts, strict=True)):
            assert relative_error(one.detach(), other) < TOLERANCE[dtype], f"component {k}"
    for k, (one, other) in enumerate(zip(gradients(model, graph), slopes, strict=True)):
        assert relative_error(one, other) < TOLERANCE[dtype], f"the gradient of component {k}"


@pytest.mark.parametrize("name", NETWORKS)
def test_one_direction_is_exact(name: str) -> None:
    """Also along s alone, where x is a plain tensor."""
    model = network(name)
    x, t, s, v, label = batch(model.shape)
    (_, d_s, d_t, _), slopes = truth(name)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            end = directional_jet(model, x, t, s, None, 0.0, 1.0, label=label)
            along = directional_jet(model, x, t, s, v, 1.0, 0.0, label=label)
        assert relative_error(end.derivative.detach(), d_s) < 1e-6
        assert relative_error(along.derivative.detach(), d_t) < 1e-6
    for jet, slope in ((end, slopes[1]), (along, slopes[2])):
        assert relative_error(gradients(model, (jet.derivative,))[0], slope) < 1e-6
