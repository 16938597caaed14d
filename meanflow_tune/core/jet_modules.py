"""Rules for functions that torch itself composes of operators that have rules."""

from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch.nn import functional as F

from meanflow_tune.core.jet_type import register_rule


def _no(*operands: Any) -> bool:
    return False


def composed(function: Any) -> Callable[..., Any]:
    """torch's own function of Python, whose body then meets jets operator by operator.

    Such a function first asks whether an operand brings rules of its own, and hands over to them;
    in this copy the answer is no.
    """
    asks = dict.fromkeys(
        ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"), _no
    )
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **asks},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


for _function in (F.multi_head_attention_forward, F.lp_pool1d, F.lp_pool2d, F.lp_pool3d):
    register_rule(_function)(composed(_function))
