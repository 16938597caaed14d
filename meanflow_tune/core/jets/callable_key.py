"""A key for a callable: the same where a call runs the same code on the same objects.

A lambda made anew at every step has the key of the one before; one that reaches another network, and a
method of another instance, has another. A key holds serial numbers in place of objects, so that it
keeps none alive, and dies with them: the number of a dead object is not given again, as its id is.
"""

import builtins
import contextlib
import functools
import itertools
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Key = tuple[Any, ...]

_PLAIN = (type(None), bool, int, str, torch.dtype, torch.device)
_DEPTH = 8
_MOST = 256  # objects that one walk visits
_MOST_PARTS = 64  # of a container; it may be a log that grows
_MOST_KEYS = 4096  # then all are forgotten: a lambda may hold the number of the step


class _Serials:
    """A number for each living object; `died` is called with it when the object dies."""

    def __init__(self, died: Callable[[int], None]) -> None:
        self._died = died
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._last = 0

    def of(self, x: object) -> int:
        """Raises TypeError where `x` allows no weak reference."""
        address = id(x)
        known = self._known.get(address)
        if known is not None and known[0]() is x:
            return known[1]
        self._last += 1
        number = self._last

        def died(reference: "weakref.ref[Any]") -> None:
            found = self._known.get(address)
            if found is not None and found[0] is reference:
                del self._known[address]
            self._died(number)

        self._known[address] = (weakref.ref(x, died), number)
        return number


class Checked:
    """A set of keys, which lives as long as the process; a key is dropped when an object in it dies."""

    def __init__(self) -> None:
        self._keys: set[Key] = set()
        self._with: dict[int, set[Key]] = {}
        _USERS.append(self)

    def __contains__(self, key: Key) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: Key) -> None:
        if len(self._keys) >= _MOST_KEYS:
            self._keys.clear()
            self._with.clear()
        self._keys.add(key)
        for number in key[0]:
            self._with.setdefault(number, set()).add(key)

    def drop(self, number: int) -> None:
        for key in self._with.pop(number, ()):
            self._keys.discard(key)
            for other in key[0]:
                keys = self._with.get(other)
                if keys is not None:
                    keys.discard(key)
                    if not keys:
                        del self._with[other]


_USERS: list[Checked] = []


def _dropped(number: int, users: list[Checked] = _USERS) -> None:
    # Of an ending interpreter the module's names are gone before its objects.
    for user in users:
        user.drop(number)


_SERIALS = _Serials(_dropped)


def unique_key(model: Callable[..., Any], circumstances: Key) -> Key | None:
    """The key of `model` called in `circumstances` (hashable); None where it reaches unknown objects."""
    walk = _Walk()
    try:
        walk.visit(model, _DEPTH)
        key = (frozenset(walk.numbers), tuple(walk.parts), circumstances)
        hash(key)
    except TypeError:  # no hash, or no weak references
        return None
    return key


def modules_of(model: Callable[..., Any]) -> list[nn.Module]:
    """All modules that a call of `model` may reach, each once."""
    walk = _Walk()
    with contextlib.suppress(TypeError):
        walk.visit(model, _DEPTH)
    return list({id(part): part for module in walk.modules for part in module.modules()}.values())


class _Walk:
    """What is found on the way through a callable: closures, defaults, globals, instances."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.parts: list[Any] = []
        self.modules: list[nn.Module] = []
        self._seen: set[int] = set()

    def visit(self, x: Any, depth: int) -> None:
        """Raises TypeError at an object that cannot be told from others."""
        if isinstance(x, Tensor):
            self.parts.append((x.shape[1:], x.dtype))
        elif isinstance(x, _PLAIN):
            self.parts.append(x)
        elif isinstance(x, float | complex | bytes):  # may be another at every step
            self.parts.append(type(x).__name__)
        elif isinstance(x, type | types.ModuleType | types.BuiltinFunctionType):
            self.parts.append(id(x))  # these live as long as their library
        elif id(x) in self._seen or depth == 0 or len(self._seen) == _MOST:
            self.parts.append(type(x).__name__)
        else:
            self._seen.add(id(x))
            self._visit_parts(x, depth - 1)

    def _visit_parts(self, x: Any, depth: int) -> None:
        if isinstance(x, nn.Module):
            self._object(x)
            self.modules.append(x)
            _add_modes(x, self.parts)
        elif isinstance(x, types.FunctionType):
            self._function(x, depth)
        elif isinstance(x, types.MethodType):
            self.visit(x.__func__, depth)
            self.visit(x.__self__, depth)
        elif isinstance(x, functools.partial):
            self.visit(x.func, depth)
            for part in x.args:
                self.visit(part, depth)
            for name, part in x.keywords.items():
                self.parts.append(name)
                self.visit(part, depth)
        elif isinstance(x, tuple | list | set | frozenset):
            some = itertools.islice(x, _MOST_PARTS)
            self._attributes({str(index): part for index, part in enumerate(some)}, depth)
        elif isinstance(x, dict):
            some = itertools.islice(x.items(), _MOST_PARTS)
            self._attributes({str(name): part for name, part in some}, depth)
        else:
            self._object(x)
            if hasattr(x, "__dict__"):
                self._attributes(vars(x), depth)

    def _object(self, x: object) -> None:
        number = _SERIALS.of(x)
        self.numbers.append(number)
        self.parts.append(number)

    def _function(self, x: types.FunctionType, depth: int) -> None:
        code = x.__code__
        self.numbers.append(_SERIALS.of(code))
        self.parts.append(self.numbers[-1])
        for cell in x.__closure__ or ():
            try:
                self.visit(cell.cell_contents, depth)
            except ValueError:  # an empty cell
                self.parts.append("empty")
        for part in (*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()):
            self.visit(part, depth)
        wrapped = getattr(x, "__wrapped__", None)
        if wrapped is not None:
            self.visit(wrapped, depth)
        for name in _names(code):
            value = x.__globals__.get(name, self)
            if value is not self and not hasattr(builtins, name):
                self._attributes({name: value}, depth)

    def _attributes(self, values: dict[str, Any], depth: int) -> None:
        """Of a name space only what can hold a network: modules, functions and callable objects."""
        for name, value in values.items():
            holds = callable(value) or isinstance(value, tuple | list | dict)
            if isinstance(value, type | types.BuiltinFunctionType) or not holds:
                continue
            if str(getattr(value, "__module__", "")).partition(".")[
                0
            ] == "torch" and not isinstance(value, nn.Module):
                continue
            before = len(self.parts)
            self.visit(value, depth)
            if len(self.parts) > before:  # a log that grows holds nothing
                self.parts.append(name)


def _add_modes(module: nn.Module, parts: list[Any]) -> None:
    """The kind of each part of a module and its flags, `training` among them; it runs at every step.

    Flags are attributes that hold a truth value or a text, on which a network may branch. Numbers are
    left out: one that counts calls would make every call a new one.
    """
    found: list[Any] = []
    stack: list[nn.Module | None] = [module]
    while stack:
        part = stack.pop()
        if part is None:
            continue
        found.append(id(type(part)))
        found += [value for value in vars(part).values() if value.__class__ in (bool, str)]
        stack.extend(part._modules.values())
    parts.append(tuple(found))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
