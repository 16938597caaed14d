"""Every rule takes every spelling of its operator: names, numpy's names, lists, separate numbers, defaults.

The spellings are generated from the signatures that torch has, for the calls of the cases in
tests/support/jets; torch itself says which of them it takes.
"""

import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from meanflow_tune.core.jets import Jet
from meanflow_tune.core.jets.jet import value_of
from tests.support.jets.operators import LEFT_OUT, STORAGE, TABLE, call, case_of

ALIASES = {
    "self": ("input", "x", "a"),
    "dim": ("axis",),
    "keepdim": ("keepdims",),
    "other": ("x2",),
}
Overload = tuple[list[str], dict[str, Any]]


def overloads(function: Any) -> list[Overload]:
    """Arguments by position, and all that have a default, as torch says them."""
    with_default: Overload
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if parameters and not any("VAR" in str(p.kind.name) for p in parameters):
        with_default = (
            [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY],
            {p.name: p.default for p in parameters if p.default is not p.empty},
        )
        return [with_default]
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{function.__name__}")
    return [
        (
            [a.name for a in each.arguments if not a.kwarg_only],
            {a.name: a.default_value for a in each.arguments if a.has_default_value()},
        )
        for each in schemas
    ]


def spellings(
    function: Any, args: Sequence[Any], named: dict[str, Any], method: bool
) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Other ways to write function(*args, **named), some of which torch refuses."""
    for order, defaults in overloads(function):
        if len(args) > len(order):
            continue
        for first in range(int(method), len(args) + 1):
            by_name = dict(zip(order[first:], args[first:], strict=False))
            whole = {**by_name, **named}
            yield list(args[:first]), whole
            for name, other in ((n, o) for n in whole for o in ALIASES.get(n, ())):
                yield list(args[:first]), {(other if n == name else n): v for n, v in whole.items()}
        given = {*order[: len(args)], *named}
        for name, default in defaults.items():
            if name not in given:
                yield list(args), {**named, name: default}
    for i, each in enumerate(args):
        if isinstance(each, tuple | list) and all(isinstance(n, int) for n in each):
            other = list(each) if isinstance(each, tuple) else tuple(each)
            for kind in (other, torch.Size(each)):
                yield [*args[:i], kind, *args[i + 1 :]], named
            if i + 1 == len(args):
                yield [*args[:i], *each], named
        elif type(each) is int:
            yield [*args[:i], (each,), *args[i + 1 :]], named
            yield [*args[:i], np.int64(each), *args[i + 1 :]], named


def mapped(x: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(x, Jet | Tensor):
        return change(x)
    if type(x) in (tuple, list):
        return type(x)([mapped(each, change) for each in x])
    return {k: mapped(v, change) for k, v in x.items()} if isinstance(x, dict) else x


def leaves(x: Any) -> list[Any]:
    if isinstance(x, tuple | list):
        return [each for part in x for each in leaves(part)]
    return [x]


def same(found: Any, expected: Any) -> bool:
    one, other = leaves(found), leaves(expected)
    if len(one) != len(other):
        return False
    for a, b in zip(one, other, strict=True):
        if isinstance(b, Jet):
            a, b = (a.parts, b.parts) if isinstance(a, Jet) else (None, b.parts)
        if isinstance(b, Tensor):
            if not isinstance(a, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
                return False
            if not torch.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True):
                return False
        elif a != b:
            return False
    return True


def plain(operator: Callable[..., Any], args: Any, named: Any) -> Any:
    """What torch gives for the values, or the error."""

    def value(x: Any) -> Tensor:
        return value_of(x).clone()  # type: ignore[no-any-return]

    try:
        return operator(*mapped(args, value), **mapped(named, value))
    except (TypeError, RuntimeError, ValueError, IndexError, AssertionError) as error:
        return error


def tried(place: str, name: str, function: Any) -> int:
    """How many other spellings of the calls in the case of an operator give what it gives."""
    spelled, count = call(place, name, function), itertools.count()

    def operator(*args: Any, **named: Any) -> Any:
        torch.manual_seed(0)
        return spelled(*args, **named)

    case = case_of(place, name)
    assert case is not None

    def op(*args: Any, **named: Any) -> Any:
        expected = operator(*mapped(list(args), _copy), **mapped(named, _copy))
        truth = plain(operator, list(args), named)
        method = place == "Tensor"
        for other, names in spellings(function, args, named, method):
            value = plain(operator, other, names)
            if isinstance(value, Exception) or not same(value, truth):
                continue  # torch takes no such spelling, or it means something else
            found = operator(*mapped(other, _copy), **mapped(names, _copy))
            assert same(found, expected), f"{place}.{name}: {other[1:]} {list(names)}"
            next(count)
        return operator(*args, **named)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case(op, Jet(STORAGE.clone()))
    return next(count)


def _copy(x: Any) -> Any:
    return x.clone()


NAMES = [
    name
    for name in TABLE
    if name not in LEFT_OUT and not name.startswith("_") and "empty" not in name
]
ONE_SPELLING = {"broadcast_tensors", "chain_matmul"}


@pytest.mark.slow  # half a minute; the common ones are tested below
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_every_spelling_of_an_operator(name: str) -> None:
    for place, function in TABLE[name]:
        count = tried(place, name, function)
        assert (
            count
            or name in ONE_SPELLING
            or not any(len(order) > (place == "Tensor") for order, _ in overloads(function))
        )


def test_the_spellings_of_common_operators_are_many() -> None:
    wanted = ("reshape", "view", "permute", "expand", "broadcast_to", "swapaxes", "sum", "where")
    counts = [tried(place, name, each) for name in wanted for place, each in TABLE[name]]
    assert min(counts) > 1
    assert sum(counts) > 80


INDICES = {
    "tuples": ((0, 1, 2), (3, 0, 1)),
    "lists": ([0, 1, 2], [3, 0, 1]),
    "arrays": (np.array([0, 2]), np.array([1, 1])),
    "an array": np.array([2, 0]),
    "tensors and a slice": (slice(None), torch.tensor([3, 1])),
    "a range": (range(2), slice(1, 3)),
    "a mixture": ([0, 1], None, torch.tensor([1, 3])),
    "a number of numpy": np.int64(1),
    "a mask of numpy": np.array([True, False, True]),
    "True": True,
}


@pytest.mark.parametrize("name", INDICES)
def test_every_kind_of_index(name: str) -> None:
    where = INDICES[name]
    for jet in (Jet(STORAGE.clone()), Jet.of(STORAGE.clone().unbind())):
        expected = torch.stack([part[where] for part in STORAGE])
        assert torch.equal(jet[where].parts, expected)
        with torch.no_grad():
            jet[where] = 2.0
        for k, part in enumerate(STORAGE.clone()):
            part[where] = 0.0 if k else 2.0
            assert torch.equal(jet.parts[k], part)


def test_an_argument_that_a_rule_does_not_take_is_named() -> None:
    jet: Any = Jet(STORAGE)
    assert torch.equal(jet.expand((3, 4), implicit=False).parts, STORAGE)
    with pytest.raises(NotImplementedError, match="implicit=True"):
        jet.expand((3, 4), implicit=True)
