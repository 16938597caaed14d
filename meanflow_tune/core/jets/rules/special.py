"""Rules for further smooth functions of one and two variables.

For f(x): the value, f' and f''. Functions of two variables are compositions of functions of one.
"""

import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jets.jet import Jet, value_of
from meanflow_tune.core.jets.register import everywhere, register_rule
from meanflow_tune.core.jets.rules.arithmetic import divide, multiply
from meanflow_tune.core.jets.rules.elementwise import Derivatives, atan, elementwise, sigmoid
from meanflow_tune.core.jets.rules.reductions import vector_norm
from meanflow_tune.core.jets.rules.softmax import logsumexp

_LOG2 = math.log(2.0)


@elementwise("exp2")
def exp2(x: Tensor, second: bool) -> Derivatives:
    f = x.exp2()
    f1 = f * _LOG2
    return f, f1, f1 * _LOG2 if second else None


@elementwise("log2")
def log2(x: Tensor, second: bool) -> Derivatives:
    f1 = 1 / (x * _LOG2)
    return x.log2(), f1, -f1 / x if second else None


@elementwise("log10")
def log10(x: Tensor, second: bool) -> Derivatives:
    f1 = 1 / (x * math.log(10.0))
    return x.log10(), f1, -f1 / x if second else None


@elementwise("square")
def square(x: Tensor, second: bool) -> Derivatives:
    return x * x, 2 * x, torch.full_like(x, 2.0) if second else None


@elementwise("sinh")
def sinh(x: Tensor, second: bool) -> Derivatives:
    f = x.sinh()
    return f, x.cosh(), f


@elementwise("cosh")
def cosh(x: Tensor, second: bool) -> Derivatives:
    f = x.cosh()
    return f, x.sinh(), f


@elementwise("tan")
def tan(x: Tensor, second: bool) -> Derivatives:
    f = x.tan()
    f1 = f * f + 1
    return f, f1, 2 * f * f1 if second else None


@elementwise("asin", "arcsin")
def asin(x: Tensor, second: bool) -> Derivatives:
    f1 = (1 - x * x).rsqrt()
    return x.asin(), f1, x * f1**3 if second else None


@elementwise("acos", "arccos")
def acos(x: Tensor, second: bool) -> Derivatives:
    f1 = -(1 - x * x).rsqrt()
    return x.acos(), f1, x * f1**3 if second else None


@elementwise("asinh", "arcsinh")
def asinh(x: Tensor, second: bool) -> Derivatives:
    f1 = (1 + x * x).rsqrt()
    return x.asinh(), f1, -x * f1**3 if second else None


@elementwise("acosh", "arccosh")
def acosh(x: Tensor, second: bool) -> Derivatives:
    f1 = (x * x - 1).rsqrt()
    return x.acosh(), f1, -x * f1**3 if second else None


@elementwise("atanh", "arctanh")
def atanh(x: Tensor, second: bool) -> Derivatives:
    f1 = 1 / (1 - x * x)
    return x.atanh(), f1, 2 * x * f1 * f1 if second else None


@elementwise("sinc")
def sinc(x: Tensor, second: bool) -> Derivatives:
    """sin(a) / a with a = πx; by its series Σ (-a²)ⁿ / (2n + 1)! near 0, where quotients cancel."""
    f, a = torch.sinc(x), x * math.pi
    near, square = a.abs() < 0.5, a * a
    safe = torch.where(near, 1.0, x)
    series = [(-1) ** n / math.factorial(2 * n + 1) for n in range(7)]
    small = _polynomial(square, [2 * n * c for n, c in enumerate(series)][1:]) * a * math.pi
    f1 = torch.where(near, small, (torch.cos(a) - f) / safe)
    if not second:
        return f, f1, None
    bend = _polynomial(square, [2 * n * (2 * n - 1) * c for n, c in enumerate(series)][1:])
    return f, f1, torch.where(near, bend * math.pi**2, -(math.pi**2) * f - 2 * f1 / safe)


def _polynomial(x: Tensor, coefficients: list[float]) -> Tensor:
    out = torch.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        out = out * x + c
    return out


@elementwise("erfc")
def erfc(x: Tensor, second: bool) -> Derivatives:
    f1 = torch.exp(-x * x) * (-2 / math.sqrt(math.pi))
    return x.erfc(), f1, f1 * x * -2 if second else None


@elementwise("erfinv")
def erfinv(x: Tensor, second: bool) -> Derivatives:
    f = x.erfinv()
    f1 = torch.exp(f * f) * (math.sqrt(math.pi) / 2)
    return f, f1, 2 * f * f1 * f1 if second else None


@elementwise("ndtr")
def ndtr(x: Tensor, second: bool) -> Derivatives:
    f1 = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return torch.special.ndtr(x), f1, -x * f1 if second else None


@elementwise("log_ndtr")
def log_ndtr(x: Tensor, second: bool) -> Derivatives:
    f = torch.special.log_ndtr(x)
    f1 = torch.exp(-0.5 * x * x - f) / math.sqrt(2 * math.pi)
    return f, f1, -f1 * (x + f1) if second else None


@elementwise("entr")
def entr(x: Tensor, second: bool) -> Derivatives:
    return torch.special.entr(x), -x.log() - 1, -1 / x if second else None


@elementwise("logit")
def logit(x: Tensor, second: bool, eps: float | None = None) -> Derivatives:
    inside = x if eps is None else x.clamp(eps, 1 - eps)
    f1 = 1 / (inside * (1 - inside))
    if eps is not None:
        f1 = torch.where(inside == x, f1, 0.0)
    return inside.logit(), f1, (2 * inside - 1) * f1 * f1 if second else None


@elementwise("tanhshrink")
def tanhshrink(x: Tensor, second: bool) -> Derivatives:
    f = x.tanh()
    return x - f, f * f, 2 * f * (1 - f * f) if second else None


@elementwise("deg2rad")
def deg2rad(x: Tensor, second: bool) -> Derivatives:
    return x.deg2rad(), torch.full_like(x, math.pi / 180), torch.zeros_like(x) if second else None


@elementwise("rad2deg")
def rad2deg(x: Tensor, second: bool) -> Derivatives:
    return x.rad2deg(), torch.full_like(x, 180 / math.pi), torch.zeros_like(x) if second else None


@register_rule(*everywhere("glu"))
def glu(x: Jet, dim: int = -1) -> Jet:
    first, gate = x.chunk(2, dim)
    return multiply(first, sigmoid(gate))


@register_rule(*everywhere("hypot"))
def hypot(x: Any, y: Any) -> Any:
    both: Any = torch.stack(torch.broadcast_tensors(x, y))  # type: ignore[no-untyped-call]
    return vector_norm(both, 2, 0)


@register_rule(*everywhere("atan2", "arctan2"))
def atan2(y: Any, x: Any) -> Jet:
    """θ₀ + atan(w / z), with (z, w) the point (x, y) turned by -θ₀, so that w is 0 and z > 0."""
    x0, y0 = value_of(x), value_of(y)
    radius = torch.hypot(x0, y0)
    c, s = x0 / radius, y0 / radius
    turned: Jet = atan(divide(c * y - s * x, c * x + s * y))
    parts = turned.parts.clone()
    parts[0] = torch.atan2(y0, x0)
    return Jet(parts)


@register_rule(*everywhere("logaddexp"))
def logaddexp(x: Any, y: Any) -> Jet:
    both: Any = torch.stack(torch.broadcast_tensors(x, y))  # type: ignore[no-untyped-call]
    return logsumexp(both, 0)


@register_rule(*everywhere("logaddexp2"))
def logaddexp2(x: Any, y: Any) -> Any:
    return logaddexp(x * _LOG2, y * _LOG2) / _LOG2


@register_rule(*everywhere("xlogy"))
def xlogy(x: Any, y: Any) -> Any:
    """x log y, and 0 for a constant x = 0; where x = 0 has derivatives, y > 0 is needed as in torch."""
    if isinstance(x, Jet):
        return multiply(x, math.log(y) if isinstance(y, int | float) else torch.log(y))
    zero = torch.as_tensor(x) == 0
    return multiply(torch.log(torch.where(zero, 1.0, y)), x)


def composed(function: Any) -> Callable[..., Any]:
    """A copy of one of torch's Python functions, whose operators meet jets one by one.

    Such a function first asks whether an operand overrides it, and then calls the override; in the
    copy the answer is no.
    """
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    asks = dict.fromkeys(names, lambda *operands: False)
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
