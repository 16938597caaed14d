"""Base classes of all settings: immutable data that refuses unknown keys and has its behaviour as methods."""

import inspect
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema


class Settings(BaseModel):
    """A frozen pydantic model; an unknown key is an error, never ignored."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class Member(Settings):
    """Base of a family's base class. Members are told apart by `kind`, a Literal with a default."""

    kind: str

    @classmethod
    def members(cls) -> tuple[type[Self], ...]:
        """The concrete classes below this one that are imported so far, in the order of imports."""
        found: list[type[Self]] = []
        for child in cls.__subclasses__():
            found += [*([] if inspect.isabstract(child) else [child]), *child.members()]
        return tuple(found)


class OneOf:
    """Annotation of a family's base class: a value is one of `members`, which `kind` tells apart.

    Static checks see the base class, pydantic the discriminated union.
    """

    def __init__(self, members: tuple[type[Member], ...]) -> None:
        self.members = members

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = {m.model_fields["kind"].default: handler.generate_schema(m) for m in self.members}
        return core_schema.tagged_union_schema(choices, discriminator="kind")


def first_fault(error: ValidationError) -> str:
    """One line: the first fault of settings, where it is and the value, with the count of the others."""
    faults = error.errors(include_url=False)
    first = faults[0]
    where = "".join(f"{part}." for part in first["loc"])[:-1] + ": "
    message, given = first["msg"].removeprefix("Value error, "), first["input"]
    shown = "" if _holds_settings(given) else f" (got {given!r})"
    if first["type"] == "extra_forbidden":
        message, shown = "is not a setting", ""
    elif first["type"] == "union_tag_not_found":
        message, shown = "needs a 'kind', which names one of its forms", f" (got {given!r})"
    elif first["type"] in ("model_type", "model_attributes_type"):
        message = 'must be settings, such as {"NAME": VALUE}'
    more = f"; and {len(faults) - 1} more" if len(faults) > 1 else ""
    return f"{where if first['loc'] else ''}{message}{shown}{more}"


def _holds_settings(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_settings(each) for each in value)
    return isinstance(value, Mapping | BaseModel)
