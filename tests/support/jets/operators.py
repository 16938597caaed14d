"""The operators that have rules, by torch's names, each with its case and the point of it."""

import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import meanflow_tune.core.jets  # noqa: F401 (fills the table)
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
