"""The jet: a value with its derivatives along one or two directions.

A jet of K components stands in for a tensor of shape *shape; its storage is a tensor [K, *shape]:

    K = 2: (f, ∂₁f)                    one direction
    K = 4: (f, ∂₁f, ∂₂f, ∂₁∂₂f)        two directions and their mixed derivative

Jets pass through unmodified modules by `__torch_function__`: each operator that meets a jet is
looked up in `table.RULES` and its rule is applied; one without a rule is refused, never approximated.

While code is being compiled the components stay apart, as K tensors [*shape], because the compiler
fuses operators over whole tensors and not over slices; they are stacked where a rule needs it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from meanflow_tune.core.jets.errors import (
    NUMBERS,
    REMEDIES,
    UnsupportedOperator,
    recording,
    refuse_hidden_graph,
)
from meanflow_tune.core.jets.signatures import bound
from meanflow_tune.core.jets.table import RULES, SPELLINGS, Operators

# Attributes without derivatives, answered from the value.
_OF_THE_VALUE = {
    *("device", "ndim", "layout", "requires_grad", "size", "nelement", "element_size"),
    *("is_cuda", "is_cpu", "is_mps", "is_sparse", "is_nested", "is_quantized", "is_meta"),
    *("is_sparse_csr", "is_mkldnn", "is_conj", "is_neg", "is_signed", "is_inference", "is_leaf"),
    *("get_device", "is_contiguous", "stride", "itemsize", "nbytes", "names", "has_names"),
    *("is_shared", "is_pinned", "grad_fn", "new_tensor"),
}


class Jet(Operators):
    """A tensor of shape [*shape] with derivatives; `parts` [K, *shape] as described above."""

    __slots__ = ("_apart", "_parts")

    def __init__(self, parts: Tensor) -> None:
        self._parts: Tensor | None = parts
        self._apart: tuple[Tensor, ...] | None = None
        if recording and not torch.is_grad_enabled():
            refuse_hidden_graph()

    @classmethod
    def of(cls, components: Sequence[Tensor]) -> "Jet":
        """A jet from its components apart, each [*shape]; none may be of another jet's storage."""
        jet = cls.__new__(cls)
        jet._parts, jet._apart = None, tuple(components)
        return jet

    @property
    def parts(self) -> Tensor:
        """Storage [K, *shape]; a copy where the components are apart, which must not be written into."""
        if self._apart is not None:
            return torch.stack(self._apart)
        assert self._parts is not None
        return self._parts

    @property
    def components(self) -> tuple[Tensor, ...]:
        """The K components, each [*shape], which are the jet's own storage."""
        return self.parts.unbind() if self._apart is None else self._apart

    @property
    def count(self) -> int:
        """K, the number of components."""
        return len(self.parts) if self._apart is None else len(self._apart)

    @property
    def apart(self) -> bool:
        """Whether the components are separate tensors; the results of rules then are, too."""
        return self._apart is not None

    @property
    def value(self) -> Tensor:
        """The value, [*shape]."""
        return self.parts[0] if self._apart is None else self._apart[0]

    @property
    def dtype(self) -> torch.dtype:
        return (self.parts if self._apart is None else self._apart[0]).dtype

    def become(self, other: "Jet") -> None:
        """Take the storage of another jet, as operators that change a shape in place do."""
        self._parts, self._apart = other._parts, other._apart

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = RULES.get(func)
        if rule is None:
            raise UnsupportedOperator(_name(func))
        if not kwargs:
            return rule(*args)
        if kwargs.get("out") is not None:
            raise UnsupportedOperator(f"{_name(func)} with out=", "use the form that returns it")
        named = {name: value for name, value in kwargs.items() if name != "out"}
        return bound(rule, SPELLINGS[func], args, named)

    def __getattr__(self, name: str) -> Any:
        # Reached only for names that are neither attributes of jets nor methods with a rule.
        if name in _OF_THE_VALUE:
            return getattr(self.value, name)
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(f"a jet has no attribute {name!r}")
        raise UnsupportedOperator(f"Tensor.{name}")

    @property
    def shape(self) -> torch.Size:
        return self.parts.shape[1:] if self._apart is None else self._apart[0].shape

    @property
    def mT(self) -> Any:
        return RULES[torch.transpose](self, -2, -1)

    @property
    def T(self) -> Any:
        return RULES[torch.permute](self, tuple(range(self.dim() - 1, -1, -1)))

    @property
    def mH(self) -> Any:
        return self.mT.conj()

    @property
    def H(self) -> Any:
        return self.T.conj()

    @property
    def real(self) -> Any:
        return RULES[torch.real](self)

    @property
    def imag(self) -> Any:
        return RULES[torch.imag](self)

    @property
    def data(self) -> Any:
        return RULES[torch.detach](self)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        self.parts.requires_grad_(requires_grad)
        return self

    def dim(self) -> int:
        return self.parts.dim() - 1 if self._apart is None else self._apart[0].dim()

    def __repr__(self) -> str:
        return f"Jet({len(self.components)} components, shape {tuple(self.shape)})"

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else repr(self)

    def __len__(self) -> int:
        if self.dim() == 0:  # where torch.tensor(x) and the like end up
            raise UnsupportedOperator(
                "the length of a jet without axes, or torch.tensor of a jet", REMEDIES["tensor"]
            )
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return iter(RULES[torch.unbind](self))

    def __contains__(self, element: Any) -> bool:
        return element in self.value

    def __setitem__(self, index: Any, value: Any) -> None:
        RULES[Tensor.__setitem__](self, index, value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __float__(self) -> float:
        raise UnsupportedOperator("float of a jet", NUMBERS)

    def __int__(self) -> int:
        raise UnsupportedOperator("int of a jet", NUMBERS)

    def __array__(self, *options: Any, **named: Any) -> Any:
        raise UnsupportedOperator("the conversion of a jet to numpy", NUMBERS)


def _name(function: Any) -> str:
    module = getattr(function, "__module__", None) or "torch"
    owner = getattr(function, "__objclass__", None)
    name = getattr(function, "__name__", repr(function))
    return f"Tensor.{name}" if owner is not None else f"{module}.{name}"


def half(x: "Jet | Tensor") -> bool:
    """Whether `x` has a 16-bit type, whose functions are computed in float32."""
    return x.dtype in (torch.bfloat16, torch.float16)


def converted(x: Jet, dtype: torch.dtype) -> Jet:
    """x in another type; x itself where it has that type."""
    if x.dtype == dtype:
        return x
    return Jet.of([part.to(dtype) for part in x.components]) if x.apart else Jet(x.parts.to(dtype))


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The type in which autocast computes matrix products of `x`; None where it does not apply."""
    kind = x.device.type
    if x.dtype != torch.float32 or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def value_of(x: Any) -> Any:
    """The value of a jet; anything else as it is."""
    return x.value if isinstance(x, Jet) else x


def lift(x: Any, components: int, like: Tensor) -> Tensor:
    """Storage [K, *shape] of a jet, or of a constant, whose derivatives are zero."""
    if isinstance(x, Jet):
        return x.parts
    if isinstance(
        x, int | float | complex
    ):  # made there: to copy a number would stop for the device
        value = torch.full((), x, dtype=like.dtype, device=like.device)
    else:
        value = torch.as_tensor(x, dtype=None if isinstance(x, Tensor) else like.dtype)
        value = value.to(like.device)
    parts = value.new_zeros((components, *value.shape))
    parts[0] = value
    return parts


def lift_apart(operands: Sequence[Any]) -> list[list[Tensor]]:
    """Per component, that of each of `operands`: jets, or constants, whose derivatives are zero."""
    count, like = components_of(operands)
    parts = [
        x.components if isinstance(x, Jet) else lift(x, count, like).unbind() for x in operands
    ]
    return [list(each) for each in zip(*parts, strict=True)]


def components_of(operands: Sequence[Any]) -> tuple[int, Tensor]:
    """Number of components and value of the first jet among `operands`."""
    for x in operands:
        if isinstance(x, Jet):
            return x.count, x.value
    raise TypeError("none of the operands is a jet")


def axis(dim: int) -> int:
    """Axis of the storage for axis `dim` of the jet."""
    return dim + 1 if dim >= 0 else dim


def axes_of(dim: Any) -> tuple[int, ...]:
    """One axis or several, which may be numbers of numpy."""
    return tuple(map(int, dim)) if isinstance(dim, tuple | list) else (int(dim),)


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
        # A copy where autograd may keep f, for a network may write into what it gets.
        return Jet.of([f.clone() if torch.is_grad_enabled() else f, *first])
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
