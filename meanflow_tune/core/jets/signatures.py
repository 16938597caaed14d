"""Binds the arguments of a call to a rule, in whatever spelling of its operator they come.

Torch takes `x.reshape((2, 3))` and `torch.reshape(input=x, shape=(2, 3))`, `dim=` and numpy's `axis=`. The
names and their order are read from the operator: a function of Python has a signature, any other the schemas
of its overloads. A rule then needs the order of torch's arguments, and torch's names for those after a gap.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from meanflow_tune.core.jets.errors import UnsupportedOperator

# Names that torch takes for others, as numpy has them; a schema says "self" where a function says "input".
_OTHER_NAMES = {
    **dict.fromkeys(("input", "x", "a", "x1"), "self"),
    "x2": "other",
    "axis": "dim",
    "keepdims": "keepdim",
}
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


# Arguments by position in their order, all others by name, and the defaults of either: of plain tuples, which
# a compiler can trace.
Overload = tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]
# The overloads of an operator, and what its rule takes by name; None where that is anything.
Spelling = tuple[tuple[Overload, ...], tuple[str, ...] | None]


def spelling(operator: Any, rule: Callable[..., Any]) -> Spelling:
    """Raises nothing: an operator that says nothing of its arguments has no overloads."""
    return _overloads(operator), _taken(rule)


def bound(
    rule: Callable[..., Any], how: Spelling, args: Sequence[Any], named: dict[str, Any]
) -> Any:
    """rule(*args, **named), with arguments by position that the rule has other names for.

    An argument that the rule does not take must have its default; another value raises UnsupportedOperator.
    """
    overloads, taken = how
    if taken is not None and all(name in taken for name in named):
        return rule(*args, **named)
    for whole, names, defaults in overloads:
        order = whole[len(args) :]
        known = (*order, *names)
        rest = {(n if n in known else _OTHER_NAMES.get(n, n)): value for n, value in named.items()}
        if not all(name in known for name in rest):
            continue
        placed = [rest.pop(name) for name in _by_position(order, rest, taken)]
        return rule(*args, *placed, **_needed(rest, taken, defaults))
    return rule(*args, **named)


def _by_position(
    order: Sequence[str], given: dict[str, Any], taken: tuple[str, ...] | None
) -> Sequence[str]:
    """The given names at the start of `order`, up to the last one that the rule has another name for."""
    count = 0
    for i, name in enumerate(order):
        if name not in given:
            break
        if taken is None or name not in taken:
            count = i + 1
    return order[:count]


def _needed(
    rest: dict[str, Any], taken: tuple[str, ...] | None, defaults: dict[str, Any]
) -> dict[str, Any]:
    if taken is None:
        return rest
    needed = {}
    for name, value in rest.items():
        if name in taken:
            needed[name] = value
        elif name not in defaults or value != defaults[name]:
            raise UnsupportedOperator(f"the argument {name}={value!r}", "leave it out")
    return needed


def _overloads(operator: Any) -> tuple[Overload, ...]:
    try:
        parameters = tuple(inspect.signature(operator).parameters.values())
    except (TypeError, ValueError):
        parameters = ()
    if parameters and all(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        by_name = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        default = {p.name: p.default for p in parameters if p.default is not p.empty}
        return ((tuple(p.name for p in parameters if p.kind in _POSITIONAL), by_name, default),)
    name = getattr(operator, "__name__", "")
    found = []
    for schema in torch._C._jit_get_schemas_for_operator(f"aten::{name}"):
        given = [a for a in schema.arguments if not a.is_out]
        found.append(
            (
                tuple(a.name for a in given if not a.kwarg_only),
                tuple(a.name for a in given if a.kwarg_only),
                {a.name: a.default_value for a in given if a.has_default_value()},
            )
        )
    return tuple(found)


def _taken(rule: Any) -> tuple[str, ...] | None:
    """Names of the arguments of a rule, and of the function that it wraps."""
    names: set[str] = set()
    while True:
        parameters = inspect.signature(rule, follow_wrapped=False).parameters.values()
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        names |= {p.name for p in parameters if p.kind not in variable}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return tuple(sorted(names))
        if not hasattr(rule, "__wrapped__"):
            return None
        rule = rule.__wrapped__
