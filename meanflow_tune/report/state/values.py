"""Reading values of a file that may hold anything: what is of another kind counts as nothing."""

from collections.abc import Mapping
from typing import Any

from meanflow_tune.report.characters import one_line

LARGEST = 1e18


def number(value: object) -> float:
    """A finite number of sensible size, else 0."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and abs(value) < LARGEST else 0.0  # type: ignore[arg-type]


def text(value: object) -> str:
    """One harmless line, "" for what is no text."""
    return one_line(value) if isinstance(value, str) else ""


def texts(value: object) -> list[str]:
    """The texts of a list."""
    return (
        [text(each) for each in value if isinstance(each, str)] if isinstance(value, list) else []
    )


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
