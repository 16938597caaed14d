"""One module per family of operators; importing this package fills the table of rules."""

from meanflow_tune.core.jets import register
from meanflow_tune.core.jets.rules import (
    arithmetic,
    attention,
    complex,
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

_FAMILIES = (
    elementwise,
    special,
    nonsmooth,
    arithmetic,
    linear,
    attention,
    softmax,
    norms,
    reductions,
    selection,
    shapes,
    views,
    writes,
    complex,
)
_COMPOSED = "Functions composed of operators that have rules."
_IN_PLACE = "In-place forms of the above."


def supported_operators() -> dict[str, list[str]]:
    """Names of all operators with a rule, by the first line of the module that holds the rule."""
    titles = {each.__name__: (each.__doc__ or "").splitlines()[0] for each in _FAMILIES}
    titles[register.__name__] = _IN_PLACE  # which makes them from the other rules
    found: dict[str, set[str]] = {title: set() for title in (*titles.values(), _COMPOSED)}
    for operator, rule in RULES.items():
        name = getattr(operator, "__name__", repr(operator))
        if not name.startswith("_"):
            found[titles.get(rule.__module__, _COMPOSED)].add(name)
    return {title: sorted(names) for title, names in found.items()}
