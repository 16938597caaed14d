"""A second legal value of every setting of a family's member, found from its fields."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from meanflow_tune.settings import Member, Settings

S = TypeVar("S", bound=Settings)


def others(
    settings: S, works: Callable[[S], object] = repr, skip: Collection[str] = ()
) -> Iterator[tuple[str, S]]:
    """(name, the same settings but for that one) for every setting; `works` raises ValueError if not.

    skip: names of settings that cannot change alone. AssertionError where no other value is found.
    """
    for name, field in type(settings).model_fields.items():
        if name != "kind" and name not in skip:
            for value in _candidates(getattr(settings, name), field.annotation):
                other = _with(settings, name, value, works)
                if other is not None:
                    yield name, other
                    break
            else:
                raise AssertionError(f"no other value of {name} found for {settings!r}")


def _with(settings: S, name: str, value: object, works: Callable[[S], object]) -> S | None:
    try:
        other = type(settings).model_validate(dict(settings) | {name: value})
        works(other)
    except (ValidationError, ValueError):
        return None
    return None if other == settings else other


def _siblings(value: Settings) -> list[Settings]:
    """The other members of the family of `value`, as they are by default, the latest first."""
    for base in type(value).__mro__:
        if issubclass(base, Member) and Member in base.__bases__:
            return [kind() for kind in base.members()[::-1] if not isinstance(value, kind)]
    return []


def _candidates(value: Any, annotation: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value // 2, 2 * value, value + 1]
    if isinstance(value, float):
        return [0.5 * value, 2.0 * value, 0.5]
    if isinstance(value, tuple):
        return [value[:-1], (*value, *value[-1:])]
    if isinstance(value, Settings):
        return [other for _, other in others(value)] or _siblings(value)
    return list(get_args(annotation))
