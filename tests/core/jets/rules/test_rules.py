"""Every operator in the table of rules, against central differences in float64: tested by being there."""

import operator
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jets import Jet, NonSmoothWarning
from meanflow_tune.core.jets.table import RULES
from tests.support.jets.cases import Case, W
from tests.support.jets.cases_shapes import ALL_CASES as CASES

PLACES = {
    "torch": torch,
    "Tensor": Tensor,
    "F": F,
    "special": torch.special,
    "linalg": torch.linalg,
    "fft": torch.fft,
    "operator": operator,
}
LEFT_OUT = {
    "cuda",  # moves to a device that may not be there
    *("__rdiv__", "__idiv__"),  # no operator of Python 3
}
CUTS_THE_GRAPH = {"detach", "detach_"}


def table() -> dict[str, list[tuple[str, Any]]]:
    """The operators that have rules, with the place where torch keeps each, by name."""
    found: dict[str, list[tuple[str, Any]]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that torch deprecates
        for place, namespace in PLACES.items():
            for name in dir(namespace):
                each = getattr(namespace, name, None)
                if callable(each) and each in RULES:
                    found.setdefault(name, []).append((place, each))
    return found


TABLE = table()


def case_of(place: str, name: str) -> Case | None:
    if place == "operator":  # x + y, as of the methods that Python calls for it
        return case_of("Tensor", f"__{name.strip('_')}__")
    for key in (f"{place}.{name}", name):
        if key in CASES:
            return CASES[key]
    base = CASES.get(name.removesuffix("_"))
    if base is None or not name.endswith("_"):
        return None

    def on_a_copy(op: Callable[..., Any], x: Any) -> Any:
        def written(y: Any, *options: Any, **named: Any) -> Any:
            copy = y * 1.0
            assert op(copy, *options, **named) is copy
            return copy

        return base(written, x)

    return on_a_copy


def call(place: str, name: str, operator: Any) -> Callable[..., Any]:
    """The operator as networks call it: a method by its first argument."""
    if place != "Tensor":
        return operator  # type: ignore[no-any-return]
    return lambda first, *rest, **named: getattr(first, name)(*rest, **named)


# At least 0.03 away from kinks of the cases, which is further than the differences reach.
POINT = torch.tensor(
    [0.11, 0.49, -0.71, 0.9, -0.26, 0.4, -0.91, 0.65, 0.77, -0.44, -0.31, 0.85], dtype=torch.float64
).reshape(3, 4)
A, B = 0.6 * torch.sin(2.3 * W + 2.3), 0.6 * torch.sin(3.1 * W + 3.1)
STORAGE = torch.stack([POINT, A, B, A - B])


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
