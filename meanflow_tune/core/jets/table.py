"""The table of rules, and Python's operators on jets, which look up the rules of torch's operators."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from meanflow_tune.core.jets.errors import UnsupportedOperator
from meanflow_tune.core.jets.signatures import Spelling

_OF_NUMPY = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "power": torch.pow,
}
FLOOR = "use torch.floor of the quotient"
# The table of rules, filled by `register.register_rule`.
RULES: dict[Any, Callable[..., Any]] = {}
# How each operator with a rule may be called.
SPELLINGS: dict[Any, Spelling] = {}
# Operators with swapped sides by name: a compiler does not find torch's wrapped functions in a table.
SWAPPED: dict[str, Callable[..., Any]] = {}


class Operators:
    """What Python calls for x + y, x[i], x < y and the like."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        return RULES[Tensor.__getitem__](self, index)

    def __add__(self, other: Any) -> Any:
        return RULES[torch.add](self, other)

    def __sub__(self, other: Any) -> Any:
        return RULES[torch.sub](self, other)

    def __rsub__(self, other: Any) -> Any:
        return RULES[torch.sub](other, self)

    def __mul__(self, other: Any) -> Any:
        return RULES[torch.mul](self, other)

    def __truediv__(self, other: Any) -> Any:
        return RULES[torch.div](self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return RULES[torch.div](other, self)

    def __pow__(self, other: Any) -> Any:
        return RULES[torch.pow](self, other)

    def __rpow__(self, other: Any) -> Any:
        return RULES[torch.pow](other, self)

    def __matmul__(self, other: Any) -> Any:
        return RULES[torch.matmul](self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return RULES[torch.matmul](other, self)

    def __mod__(self, other: Any) -> Any:
        return RULES[torch.remainder](self, other)

    def __floordiv__(self, other: Any) -> Any:
        raise UnsupportedOperator("`//`", FLOOR)

    def __rfloordiv__(self, other: Any) -> Any:
        raise UnsupportedOperator("`//`", FLOOR)

    def __divmod__(self, other: Any) -> Any:
        raise UnsupportedOperator("divmod", FLOOR)

    def __rmod__(self, other: Any) -> Any:
        raise UnsupportedOperator("`%` by a jet", FLOOR)

    def __round__(self, digits: Any = None) -> Any:
        raise UnsupportedOperator("round", "use torch.round")

    def __neg__(self) -> Any:
        return RULES[torch.neg](self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return RULES[torch.abs](self)

    def __iadd__(self, other: Any) -> Any:
        return RULES[Tensor.add_](self, other)

    def __isub__(self, other: Any) -> Any:
        return RULES[Tensor.sub_](self, other)

    def __imul__(self, other: Any) -> Any:
        return RULES[Tensor.mul_](self, other)

    def __ipow__(self, other: Any) -> Any:
        return RULES[Tensor.pow_](self, other)

    def __itruediv__(self, other: Any) -> Any:
        return RULES[Tensor.div_](self, other)

    def __array_ufunc__(self, function: Any, method: str, *operands: Any, **named: Any) -> Any:
        """What numpy calls where one of its numbers is on the left, as in np.sqrt(2) * x."""
        name = function.__name__
        if name not in _OF_NUMPY or named or any(getattr(x, "ndim", 0) for x in operands[:1]):
            raise UnsupportedOperator(f"numpy.{name}", "use torch's function of that name")
        left, right = (x if isinstance(x, Operators) else x.item() for x in operands)
        return RULES[_OF_NUMPY[name]](left, right)

    def __lt__(self, other: Any) -> Any:
        return RULES[torch.lt](self, other)

    def __le__(self, other: Any) -> Any:
        return RULES[torch.le](self, other)

    def __gt__(self, other: Any) -> Any:
        return RULES[torch.gt](self, other)

    def __ge__(self, other: Any) -> Any:
        return RULES[torch.ge](self, other)

    def __eq__(self, other: Any) -> Any:
        if not isinstance(other, Operators | Tensor | float | int):
            return NotImplemented
        return RULES[torch.eq](self, other)

    def __ne__(self, other: Any) -> Any:
        if not isinstance(other, Operators | Tensor | float | int):
            return NotImplemented
        return RULES[torch.ne](self, other)

    __hash__ = object.__hash__
    __radd__ = __add__
    __rmul__ = __mul__
