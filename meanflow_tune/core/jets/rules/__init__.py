"""One module per family of operators; importing this package fills the table of rules."""

import sys

from meanflow_tune.core.jets import register
from meanflow_tune.core.jets.rules import (
    arithmetic,
    attention,
    elementwise,
    linear,
    nonsmooth,
    norms,
    reductions,
    selection,
    shapes,
    softmax,
    special,
    views,
    writes,
)
from meanflow_tune.core.jets.table import RULES

_MODULES = (
    arithmetic,
    attention,
    elementwise,
    linear,
    nonsmooth,
    norms,
    reductions,
    selection,
    shapes,
    softmax,
    special,
    views,
    writes,
)


def supported_operators() -> dict[str, list[str]]:
    """Names of all operators with a rule, by the first line of the module that holds the rule."""
    found: dict[str, set[str]] = {}
    for operator, rule in RULES.items():
        name = getattr(operator, "__name__", repr(operator))
        if name.startswith("_"):
            continue
        module = sys.modules[rule.__module__]
        about = (module.__doc__ or rule.__module__).strip().splitlines()[0]
        if module is register:  # where rules are turned into those of their in-place forms
            about = _IN_PLACE
        elif not rule.__module__.startswith(__package__):
            about = _COMPOSED
        found.setdefault(about, set()).add(name)
    return {about: sorted(found[about]) for about in sorted(found, key=_order)}


def _order(about: str) -> tuple[int, str]:
    return (_COMPOSED, _IN_PLACE).index(about) + 1 if about in (_COMPOSED, _IN_PLACE) else 0, about


_COMPOSED = "Functions of torch that run as they are, on operators which have rules."
_IN_PLACE = "In-place forms of the above."
