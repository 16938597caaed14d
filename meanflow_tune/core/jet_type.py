"""The jet: a value with its derivatives along one or two directions, and the table of its rules.

A jet of K components stands in for a tensor of shape *shape; its storage is a tensor [K, *shape]:

    K = 2: (f, ∂₁f)                    one direction
    K = 4: (f, ∂₁f, ∂₂f, ∂₁∂₂f)        two directions and their mixed derivative

Jets pass through unmodified modules by `__torch_function__`: each operator that meets a jet is
looked up in the table and its rule is applied; one without a rule is refused, never approximated.

In code that is being compiled the components stay apart, as K tensors [*shape], because the compiler
fuses operators over whole tensors and not over slices of one; they are stacked where a rule asks.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

Rule = TypeVar("Rule", bound=Callable[..., Any])

_RULES: dict[Any, Callable[..., Any]] = {}
# Operators with swapped sides by name: a compiler does not find torch's wrapped functions in a table.
SWAPPED: dict[str, Callable[..., Any]] = {}
# What a module may ask a jet about without any derivative: answered from the value alone.
_OF_THE_VALUE = {
    *("dtype", "device", "ndim", "layout", "requires_grad", "size", "nelement", "element_size"),
    *("is_cuda", "is_sparse", "is_nested", "is_quantized", "is_meta", "get_device"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
}


class UnsupportedOperator(NotImplementedError):
    """A network uses an operator, or a form of one, through which derivatives have no rule."""

    def __str__(self) -> str:
        # Not in __init__, which a compiler cannot trace.
        operator, *remedy = self.args
        if not remedy:
            remedy = [
                "write the network with operators that have one, or add a rule with "
                "meanflow_tune.core.jets.register_rule(operator)(rule)"
            ]
        return f"no derivative rule for {operator}; {remedy[0]}"


class Jet:
    """A tensor of shape [*shape] with derivatives; `parts` [K, *shape] as described above."""

    __slots__ = ("_apart", "_parts")

    def __init__(self, parts: Tensor) -> None:
        self._parts: Tensor | None = parts
        self._apart: tuple[Tensor, ...] | None = None

    @classmethod
    def of(cls, components: Sequence[Tensor]) -> "Jet":
        """A jet from its components apart, each [*shape]; none may be of another jet's storage."""
        jet = cls.__new__(cls)
        jet._parts, jet._apart = None, tuple(components)
        return jet

    @property
    def parts(self) -> Tensor:
        """Storage [K, *shape]; a copy where the components are apart, so do not write into it."""
        if self._apart is not None:
            return torch.stack(self._apart)
        assert self._parts is not None
        return self._parts

    @property
    def components(self) -> tuple[Tensor, ...]:
        """The K components, each [*shape], which are the jet's own storage."""
        return self.parts.unbind() if self._apart is None else self._apart

    @property
    def apart(self) -> bool:
        """Whether the components are apart, and with them what rules make of them."""
        return self._apart is not None

    @property
    def value(self) -> Tensor:
        """The value, [*shape]."""
        return self.parts[0] if self._apart is None else self._apart[0]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = _RULES.get(func)
        if rule is None:
            raise UnsupportedOperator(_name(func))
        return rule(*args, **kwargs) if kwargs else rule(*args)

    def __getattr__(self, name: str) -> Any:
        # Reached only for names that are neither jets' own nor methods with a rule.
        if name in _OF_THE_VALUE:
            return getattr(self.value, name)
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(f"a jet has no attribute {name!r}")
        raise UnsupportedOperator(f"Tensor.{name}")

    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    @property
    def mT(self) -> Any:
        return _RULES[torch.transpose](self, -2, -1)

    @property
    def T(self) -> Any:
        return _RULES[torch.permute](self, tuple(range(self.dim() - 1, -1, -1)))

    def dim(self) -> int:
        return self.value.dim()

    def __repr__(self) -> str:
        return f"Jet({len(self.components)} components, shape {tuple(self.shape)})"

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return iter(_RULES[torch.unbind](self))

    def __setitem__(self, index: Any, value: Any) -> None:
        raise UnsupportedOperator("assignment to elements", "use torch.where, torch.cat or F.pad")

    def __bool__(self) -> bool:
        return bool(self.value)

    def __getitem__(self, index: Any) -> Any:
        return _RULES[Tensor.__getitem__](self, index)

    def __add__(self, other: Any) -> Any:
        return _RULES[torch.add](self, other)

    def __sub__(self, other: Any) -> Any:
        return _RULES[torch.sub](self, other)

    def __rsub__(self, other: Any) -> Any:
        return _RULES[torch.sub](other, self)

    def __mul__(self, other: Any) -> Any:
        return _RULES[torch.mul](self, other)

    def __truediv__(self, other: Any) -> Any:
        return _RULES[torch.div](self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _RULES[torch.div](other, self)

    def __pow__(self, other: Any) -> Any:
        return _RULES[torch.pow](self, other)

    def __rpow__(self, other: Any) -> Any:
        return _RULES[torch.pow](other, self)

    def __matmul__(self, other: Any) -> Any:
        return _RULES[torch.matmul](self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return _RULES[torch.matmul](other, self)

    def __neg__(self) -> Any:
        return _RULES[torch.neg](self)

    def __iadd__(self, other: Any) -> Any:
        return _RULES[Tensor.add_](self, other)

    def __isub__(self, other: Any) -> Any:
        return _RULES[Tensor.sub_](self, other)

    def __imul__(self, other: Any) -> Any:
        return _RULES[Tensor.mul_](self, other)

    def __itruediv__(self, other: Any) -> Any:
        return _RULES[Tensor.div_](self, other)

    def __lt__(self, other: Any) -> Any:
        return _RULES[torch.lt](self, other)

    def __le__(self, other: Any) -> Any:
        return _RULES[torch.le](self, other)

    def __gt__(self, other: Any) -> Any:
        return _RULES[torch.gt](self, other)

    def __ge__(self, other: Any) -> Any:
        return _RULES[torch.ge](self, other)

    __radd__ = __add__
    __rmul__ = __mul__


def register_rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Decorator: the rule by which `operators` act on jets, e.g. `@register_rule(torch.atan)`.

    The rule is called with the operator's own arguments, of which at least one is a `Jet`, and
    gives what the operator gives, with jets for tensors that have derivatives. `operators` are the
    objects that a network calls (functions of torch, methods such as `Tensor.atan`); a later rule
    for the same operator replaces an earlier one. TypeError when an operator is not callable.
    """
    for each in operators:
        if not callable(each):
            raise TypeError(f"an operator must be callable, but got {each!r}")

    def register(rule: Rule) -> Rule:
        for each in operators:
            _RULES[each] = rule
            name = getattr(each, "__name__", "")
            if name.startswith("__r"):
                SWAPPED[name] = rule
            # A method becomes one of Jet's own, which saves a look-up on every call. Not so for the
            # operators that Python calls with swapped sides, which `Jet` defines itself.
            if getattr(Tensor, name, None) is each and not name.startswith("__"):
                setattr(Jet, name, rule)
        return rule

    return register


def everywhere(*names: str) -> list[Any]:
    """All the operators under each name: function, method, functional and Python's own."""
    places = (torch, Tensor, F, torch.special, operator)  # the last as a compiler calls them
    found = [getattr(place, name, None) for name in names for place in places]
    return [each for each in found if callable(each)]


def in_place(rule: Callable[..., Jet]) -> Callable[..., Jet]:
    """The same rule, writing its result into the first operand: views of that see it too."""

    def stored(x: Any, *options: Any, **named: Any) -> Jet:
        if not isinstance(x, Jet):
            raise UnsupportedOperator(
                "writing derivatives into a tensor that has none", "use the form that returns them"
            )
        # Autograd may keep what the rule reads, so that must not be overwritten.
        copied = x.apart or torch.is_grad_enabled()
        source = Jet(x.parts.clone()) if copied else x
        result = rule(source, *options, **named)
        if not x.apart:
            x.parts.copy_(result.parts)
            return x
        for own, new in zip(x.components, result.components, strict=True):
            own.copy_(new)
        return x

    return stored


def _name(function: Any) -> str:
    module = getattr(function, "__module__", None) or "torch"
    owner = getattr(function, "__objclass__", None)
    name = getattr(function, "__name__", repr(function))
    return f"Tensor.{name}" if owner is not None else f"{module}.{name}"


def value_of(x: Any) -> Any:
    """The value of a jet; anything else as it is."""
    return x.value if isinstance(x, Jet) else x


def lift(x: Any, components: int, like: Tensor) -> Tensor:
    """Storage [K, *shape] of a jet, or of a constant, whose derivatives are zero."""
    if isinstance(x, Jet):
        return x.parts
    value = torch.as_tensor(x, dtype=None if isinstance(x, Tensor) else like.dtype)
    value = value.to(like.device)
    parts = value.new_zeros((components, *value.shape))
    parts[0] = value
    return parts


def lift_apart(operands: Sequence[Any]) -> list[list[Tensor]]:
    """For each component those of all `operands`, jets or constants, whose derivatives are zero."""
    count, like = components_of(operands)
    parts = [
        x.components if isinstance(x, Jet) else lift(x, count, like).unbind() for x in operands
    ]
    return [list(each) for each in zip(*parts, strict=True)]


def components_of(operands: Sequence[Any]) -> tuple[int, Tensor]:
    """Number of components and value of the first jet among `operands`."""
    for x in operands:
        if isinstance(x, Jet):
            return len(x.components), x.value
    raise TypeError("none of the operands is a jet")


def axis(dim: int) -> int:
    """Axis of the storage for axis `dim` of the jet."""
    return dim + 1 if dim >= 0 else dim


def align(parts: Tensor, rank: int) -> Tensor:
    """Storage [K, *shape] viewed as [K, 1, ..., 1, *shape], so that it broadcasts to `rank`."""
    while parts.dim() <= rank:
        parts = parts.unsqueeze(1)
    return parts


def broadcast(*shapes: torch.Size) -> torch.Size:
    """The shape to which `shapes` broadcast together."""
    shape: torch.Size = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    return shape


def put(part: Tensor, operator: Callable[..., Tensor], x: Tensor, y: Tensor) -> None:
    """part[...] = operator(x, y), without the intermediate tensor where no gradient is recorded."""
    if torch.is_grad_enabled():
        part.copy_(operator(x, y))
    else:
        operator(x, y, out=part)


def chain(x: Jet | Tensor, f: Tensor, f1: Tensor, f2: Tensor | None) -> Jet:
    """The jet of f(x) elementwise: (f, f'x₁, f'x₂, f'x₁₂ + f''x₁x₂); only K = 4 needs f''."""
    if isinstance(x, Jet) and x.apart:
        _, *rest = x.components
        first = [f1 * part for part in rest]
        if len(rest) == 3:
            first[2] = first[2] + _second(f2) * rest[0] * rest[1]
        return Jet.of([f, *first])
    parts = x.parts if isinstance(x, Jet) else x
    out = torch.empty_like(parts)
    out[0] = f
    put(out[1:], torch.mul, parts[1:], f1)
    if len(parts) == 4:
        out[3].addcmul_(parts[1] * parts[2], _second(f2))
    return Jet(out)


def _second(f2: Tensor | None) -> Tensor:
    if f2 is None:
        raise ValueError("`f2` must be given for a jet of 4 components, but got None")
    return f2
