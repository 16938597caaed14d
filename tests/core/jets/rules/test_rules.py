"""Every operator in the table of rules, against central differences in float64: tested by being there."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from meanflow_tune.core.jets import Jet, NonSmoothWarning
from meanflow_tune.core.jets.table import RULES
from tests.support.jets.cases import W
from tests.support.jets.operators import CASES, LEFT_OUT, STORAGE, TABLE, call, case_of

CUTS_THE_GRAPH = {"detach", "detach_"}
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


def differences(f: Callable[[Tensor], Tensor], step: float = 3e-3) -> Tensor:
    """Storage of f by differences of order 4 along x + a e₁ + b e₂ + (a - b) e₁e₂ at e = 0."""
    x, a, b, ab = STORAGE

    def at(i: float, k: float) -> Tensor:
        return f(x + i * step * a + k * step * b + i * k * step * step * ab)

    def along(k: float) -> Tensor:
        return sum(w / step * at(i, k) for i, w in STENCIL)  # type: ignore[return-value]

    value = at(0.0, 0.0)
    second = sum(w / step * at(0.0, k) for k, w in STENCIL)
    mixed = sum(w / step * along(k) for k, w in STENCIL)
    return torch.stack([value, along(0.0), second, mixed])  # type: ignore[arg-type]


def storage(f: Callable[[Any], Any], parts: Tensor) -> Tensor:
    out: Jet = f(Jet(parts))
    return out.parts


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonSmoothWarning)
        yield


def test_the_table_is_found() -> None:
    """Every rule belongs to a name that torch has, so that none escapes the tests below."""
    reached = {each for operators in TABLE.values() for _, each in operators}
    assert set(RULES) == reached
    assert len(TABLE) > 400


@pytest.mark.parametrize("name", [name for name in TABLE if name not in LEFT_OUT])
def test_rule_against_central_differences(name: str) -> None:
    truths: dict[Any, Tensor] = {}
    for place, function in TABLE[name]:
        case = case_of(place, name)
        assert case is not None, f"add a case for {name!r} to tests/support/jets/cases.py"
        op = call(place, name, function)

        def f(x: Any, op: Any = op, case: Any = case) -> Any:
            return case(op, x)

        key = (place == "operator", CASES.get(f"{place}.{name}", name))
        if key not in truths:
            truths[key] = differences(f)
        expected = truths[key]
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                full, first = storage(f, STORAGE), storage(f, STORAGE[:2])
                # As in compiled code, with the components apart.
                apart = f(Jet.of([part.clone() for part in STORAGE])).parts
            assert full.shape == expected.shape
            for found, truth in ((full, expected), (first, expected[:2]), (apart, expected)):
                for one, other in zip(found, truth, strict=True):
                    scale = max(1.0, other.abs().max().item())
                    error = (one - other).abs().max().item() / scale
                    assert error < 1e-7, f"{place}.{name} {grad=}: error {error:.1e}"


@pytest.mark.parametrize("name", [name for name in TABLE if name not in LEFT_OUT | CUTS_THE_GRAPH])
def test_gradients_through_rule(name: str) -> None:
    """Of a weighted sum of all components, in all components, against central differences."""
    direction, step = torch.cos(torch.stack([W, W - 1, W * 3, W * 5])), 1e-6
    for place, function in TABLE[name]:
        case, op = case_of(place, name), call(place, name, function)
        assert case is not None

        def score(parts: Tensor, op: Any = op, case: Any = case) -> Tensor:
            out = case(op, Jet(parts * 1.0)).parts
            weight = torch.sin(torch.arange(out.numel(), dtype=out.dtype) + 1).reshape(out.shape)
            return (out * weight).sum()

        parts = STORAGE.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(score(parts), parts)
        with torch.no_grad():
            ahead, behind = score(STORAGE + step * direction), score(STORAGE - step * direction)
        slope, found = (ahead - behind) / (2 * step), (gradient * direction).sum()
        assert abs(found - slope) < 1e-6 * max(1.0, abs(slope).item()), f"{place}.{name}"
