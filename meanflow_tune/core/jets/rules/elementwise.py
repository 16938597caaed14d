"""Rules for common smooth functions of one variable.

Each is made from f and its first two derivatives: for x = (x₀, x₁, x₂, x₁₂) or (x₀, x₁) the jet is
(f, f'x₁, f'x₂, f'x₁₂ + f''x₁x₂). In-place operations here act on tensors made here and not yet used, so
they are safe under autograd. 16-bit storage is computed in float32 and rounded once.
"""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jets.jet import Jet, chain, converted, half
from meanflow_tune.core.jets.register import everywhere, in_place, register_rule

Derivatives = tuple[Tensor, Tensor, Tensor | None]


def elementwise(*names: str) -> Callable[[Callable[..., Derivatives]], Callable[..., Jet]]:
    """Registers the rule of a function of one variable from its first two derivatives.

    The decorated function takes the value, whether f'' is needed, and the operator's own options.
    """

    def register(derivatives: Callable[..., Derivatives]) -> Callable[..., Jet]:
        @wraps(derivatives)
        def rule(x: Jet, *options: Any, inplace: bool = False, **named: Any) -> Jet:
            if inplace:
                return written(x, *options, **named)
            if half(x):
                return converted(chain_of(converted(x, torch.float32), *options, **named), x.dtype)
            return chain_of(x, *options, **named)

        def chain_of(x: Jet, *options: Any, **named: Any) -> Jet:
            return chain(x, *derivatives(x.value, x.count == 4, *options, **named))

        written = in_place(rule)
        register_rule(*everywhere(*names))(rule)
        register_rule(*everywhere(*(f"{name}_" for name in names)))(written)
        return rule

    return register


def of_ratios(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Jet]]:
    """Registers the rule of a function whose derivatives are powers of 1 / x.

    The decorated function takes the value and the ratios gᵢ = xᵢ / x and gives all components. The powers
    themselves would overflow for a tiny x, in gradients too, although the derivatives are finite.
    """

    def register(components: Callable[..., Any]) -> Callable[..., Jet]:
        @wraps(components)
        def rule(x: Jet) -> Jet:
            wide = converted(x, torch.float32) if half(x) else x
            value, *rest = wide.components
            made = components(value, *(part / value for part in rest))
            out = Jet.of(made) if x.apart else Jet(torch.stack(made))
            return converted(out, x.dtype)

        register_rule(*everywhere(*names))(rule)
        register_rule(*everywhere(*(f"{name}_" for name in names)))(in_place(rule))
        return rule

    return register


def _power_of(n: float, f: Tensor, g: Sequence[Tensor]) -> list[Tensor]:
    """f = xⁿ: fᵢ = n f gᵢ and f₁₂ = n f (g₁₂ + (n - 1) g₁g₂)."""
    slope = n * f
    # A copy where autograd may keep f, for a network may write into what it gets.
    out = [f.clone() if torch.is_grad_enabled() else f, *(slope * each for each in g[:2])]
    return [*out, slope * (g[2] + (n - 1) * g[0] * g[1])] if len(g) == 3 else out


@of_ratios("log")
def log(x: Tensor, *g: Tensor) -> list[Tensor]:
    return [x.log(), *g[:2], *(g[2] - g[0] * g[1] for _ in g[2:])]


@of_ratios("sqrt")
def sqrt(x: Tensor, *g: Tensor) -> list[Tensor]:
    return _power_of(0.5, x.sqrt(), g)


@of_ratios("rsqrt")
def rsqrt(x: Tensor, *g: Tensor) -> list[Tensor]:
    return _power_of(-0.5, x.rsqrt(), g)


@elementwise("exp")
def exp(x: Tensor, second: bool) -> Derivatives:
    f = x.exp()
    return f, f, f


@elementwise("expm1")
def expm1(x: Tensor, second: bool) -> Derivatives:
    f1 = x.exp()
    return x.expm1(), f1, f1


@elementwise("log1p")
def log1p(x: Tensor, second: bool) -> Derivatives:
    f1 = (x + 1).reciprocal()
    return x.log1p(), f1, -f1 * f1 if second else None


@elementwise("sin")
def sin(x: Tensor, second: bool) -> Derivatives:
    f = x.sin()
    return f, x.cos(), -f if second else None


@elementwise("cos")
def cos(x: Tensor, second: bool) -> Derivatives:
    f = x.cos()
    return f, -x.sin(), -f if second else None


@elementwise("tanh")
def tanh(x: Tensor, second: bool) -> Derivatives:
    f = x.tanh()
    f1 = 1 - f * f
    return f, f1, f * f1 * -2 if second else None


@elementwise("sigmoid", "expit")
def sigmoid(x: Tensor, second: bool) -> Derivatives:
    f = x.sigmoid()
    f1 = f * (1 - f)
    return f, f1, f1 * (1 - 2 * f) if second else None


@elementwise("erf")
def erf(x: Tensor, second: bool) -> Derivatives:
    f1 = torch.exp(-x * x) * (2 / math.sqrt(math.pi))
    return x.erf(), f1, f1 * x * -2 if second else None


@elementwise("atan", "arctan")
def atan(x: Tensor, second: bool) -> Derivatives:
    f1 = (x * x + 1).reciprocal()
    return x.atan(), f1, x * f1 * f1 * -2 if second else None


@elementwise("softplus")
def softplus(x: Tensor, second: bool, beta: float = 1.0, threshold: float = 20.0) -> Derivatives:
    linear = x * beta > threshold
    f1 = torch.where(linear, 1.0, torch.sigmoid(x * beta))
    f2 = f1 * (1 - f1) * beta if second else None
    return F.softplus(x, beta, threshold), f1, f2


@elementwise("logsigmoid")
def logsigmoid(x: Tensor, second: bool) -> Derivatives:
    f1 = torch.sigmoid(-x)
    return F.logsigmoid(x), f1, f1 * (f1 - 1) if second else None


@elementwise("silu")
def silu(x: Tensor, second: bool) -> Derivatives:
    s = torch.sigmoid(x)
    f, g = x * s, 1 - s
    f1 = torch.addcmul(s, f, g)  # s + f (1 - s)
    # f'' = (1 - s)(2f' - f), from s' = s (1 - s)
    return f, f1, torch.sub(f1, f, alpha=0.5).mul_(g).mul_(2) if second else None


@elementwise("mish")
def mish(x: Tensor, second: bool) -> Derivatives:
    s, t = torch.sigmoid(x), torch.tanh(F.softplus(x))
    q = s * (1 - t * t)  # d/dx tanh(softplus(x))
    f1 = t + x * q
    return x * t, f1, q * (2 + x * (1 - s - 2 * t * s)) if second else None


@elementwise("gelu")
def gelu(x: Tensor, second: bool, approximate: str = "none") -> Derivatives:
    if approximate == "none":  # x Φ(x), with the normal distribution function Φ and density φ
        square = x * x
        density = torch.mul(square, -0.5).sub_(0.5 * math.log(2 * math.pi)).exp_()
        below = torch.mul(x, math.sqrt(0.5)).erf_().add_(1).mul_(0.5)
        # φ (2 - x²) in place: the temporaries of a wide hidden layer cost more than its arithmetic.
        bend = square.neg_().add_(2).mul_(density) if second else None
        return x * below, torch.addcmul(below, x, density), bend
    if approximate != "tanh":
        raise ValueError(f"`approximate` must be 'none' or 'tanh', but got ({approximate=})")
    k, c = math.sqrt(2 / math.pi), 0.044715
    square = x * x
    th = torch.tanh(x * (square * (k * c) + k))
    slope = (1 - th * th) * (square * (3 * k * c) + k)  # th'
    f1 = (th + 1 + x * slope) * 0.5
    if not second:
        return x * (th + 1) * 0.5, f1, None
    # th'' = (1 - th²) inner'' - 2 th inner' th', inner'' = 6kcx
    bend = (1 - th * th) * x * (6 * k * c) - 2 * th * slope * (square * (3 * k * c) + k)
    return x * (th + 1) * 0.5, f1, slope + 0.5 * x * bend
