"""As much of pydantic as settings written in code need, for machines that lack it.

Defaults, frozen models, refused unknown keys, `model_validator`s, and what `model_dump` wrote read again.
Types and bounds are not checked, so that it serves configurations that tests have built with pydantic itself.
"""

import importlib.util
import inspect
import sys
from abc import ABCMeta
from collections.abc import Callable, Mapping
from types import ModuleType, UnionType
from typing import Annotated, Any, ClassVar, Self, Union, get_args, get_origin

_MISSING: Any = object()


class FieldInfo:
    """default: `_MISSING` where a value must be given; annotation: without `Annotated`."""

    def __init__(self, default: Any = _MISSING, **bounds: Any) -> None:
        self.default, self.bounds = default, bounds
        self.annotation: Any = None


class ValidationError(ValueError):
    """Never raised here: validators of settings raise ValueError."""


def model_validator(*, mode: str) -> Callable[[Any], Any]:
    """Marks a class method that gets the given values first, or a method that is called once all are set."""

    def mark(function: Any) -> Any:
        function.validates = mode
        return function

    return mark


class BaseModel(metaclass=ABCMeta):  # noqa: B024 - families of settings are abstract
    """Fields from annotations, in their order, those of bases first."""

    model_config: ClassVar[Any] = {}
    model_fields: ClassVar[dict[str, FieldInfo]] = {}

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        fields: dict[str, FieldInfo] = {}
        for base in reversed(cls.__mro__[1:]):
            fields |= vars(base).get("model_fields", {})
        for name, kind in inspect.get_annotations(cls).items():
            if _origin(kind) is ClassVar:
                continue
            given = vars(cls).get(name, _MISSING)
            field = FieldInfo(given.default if isinstance(given, FieldInfo) else given)
            field.annotation = get_args(kind)[0] if _origin(kind) is Annotated else kind
            fields[name] = field
        cls.model_fields = fields

    def __init__(self, /, **values: Any) -> None:
        for name in self._validators("before"):
            values = getattr(type(self), name)(values)
        unknown = values.keys() - self.model_fields.keys()
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))}: no setting of {type(self).__name__}")
        for name, field in self.model_fields.items():
            value = values.get(name, field.default)
            if value is _MISSING:
                raise ValueError(f"{type(self).__name__} needs {name}")
            vars(self)[name] = value
        for name in self._validators("after"):
            getattr(self, name)()

    @classmethod
    def _validators(cls, mode: str) -> list[str]:
        found = {name: inspect.getattr_static(cls, name) for name in dir(cls)}
        return [name for name, each in found.items() if getattr(each, "validates", None) == mode]

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), tuple(self._values().values())))

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={value!r}" for name, value in self._values().items())
        return f"{type(self).__name__}({listed})"

    def _values(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in self.model_fields}

    def model_dump(self, mode: str = "json") -> dict[str, Any]:
        """Plain data; tuples become lists, as in JSON."""
        return {name: _plain(value) for name, value in self._values().items()}

    @classmethod
    def model_validate(cls, data: Mapping[str, Any]) -> Self:
        """A model from what `model_dump` gives."""
        fields = cls.model_fields
        return cls(
            **{n: _parsed(fields[n].annotation, v) if n in fields else v for n, v in data.items()}
        )

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self:
        """The same with other values, which no validator sees, as pydantic has it."""
        copy = object.__new__(type(self))
        vars(copy).update(vars(self) | dict(update or {}))
        return copy


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _parsed(kind: Any, value: Any) -> Any:
    """`value` as an annotation has it: models from mappings, tuples from lists."""
    if isinstance(value, list):
        inner = [arg for of in _choices(kind) if get_origin(of) is tuple for arg in get_args(of)]
        return tuple(_parsed(inner[0], each) for each in value)
    if not isinstance(value, Mapping):
        return value
    models = [of for of in _choices(kind) if isinstance(of, type) and issubclass(of, BaseModel)]
    models = [member for of in models for member in (_members(of) or [of])]
    named = [of for of in models if "kind" in of.model_fields]
    chosen = [of for of in named if of.model_fields["kind"].default == value.get("kind")]
    return (chosen or models)[0].model_validate(value)


def _origin(kind: Any) -> Any:
    return get_origin(kind)


def _choices(kind: Any) -> list[Any]:
    if _origin(kind) is Annotated:
        return _choices(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [each for of in get_args(kind) for each in _choices(of)]
    return [kind]


def _members(kind: Any) -> list[Any]:
    """The concrete classes of a family's base class."""
    return list(kind.members()) if inspect.isabstract(kind) else []


def supply() -> bool:
    """Let `import pydantic` find this, where it finds nothing; says whether it took that place."""
    if "pydantic" in sys.modules or _installed("pydantic"):
        return False
    pydantic, core = ModuleType("pydantic"), ModuleType("pydantic_core")
    given = {
        "BaseModel": BaseModel,
        "ConfigDict": dict,
        "Field": FieldInfo,
        "ValidationError": ValidationError,
        "model_validator": model_validator,
        "AfterValidator": _nothing,
        "GetCoreSchemaHandler": object,
    }
    for name, value in given.items():
        setattr(pydantic, name, value)
    core.CoreSchema, core.core_schema = object, None  # type: ignore[attr-defined]
    sys.modules |= {"pydantic": pydantic, "pydantic_core": core}
    return True


def _nothing(function: Any) -> None:
    return None


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
