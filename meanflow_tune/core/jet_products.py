"""Rules for operators that are linear in each of two operands, and for chains of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jet_arithmetic import bilinear
from meanflow_tune.core.jet_layers import matmul, plus_scaled
from meanflow_tune.core.jet_type import Jet, everywhere, register_rule


def _register(operator: Any, *operators: Any) -> None:
    def rule(x: Any, y: Any, *options: Any, **named: Any) -> Jet:
        return bilinear(lambda a, b: operator(a, b, *options, **named), x, y)

    register_rule(operator, *operators)(rule)


for _name in ("outer", "ger", "inner", "dot", "vdot", "kron", "cross"):
    _operators = everywhere(_name)
    _register(_operators[0], *_operators[1:])
_register(torch.tensordot)
_register(torch.linalg.cross)
_register(torch.linalg.vecdot)

register_rule(torch.linalg.matmul)(matmul)


@register_rule(F.bilinear)
def bilinear_layer(x: Any, y: Any, weight: Tensor, bias: Tensor | None = None) -> Jet:
    """yₖ = Σ xᵢ Wₖᵢⱼ yⱼ + b."""
    out = bilinear(lambda a, b: F.bilinear(a, b, weight), x, y)
    return out if bias is None else out + bias


@register_rule(*everywhere("addmv"))
def addmv(x: Any, y: Any, z: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return plus_scaled(x, torch.matmul(y, z), beta, alpha)


@register_rule(*everywhere("addbmm"))
def addbmm(x: Any, y: Any, z: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return plus_scaled(x, torch.matmul(y, z).sum(0), beta, alpha)


@register_rule(*everywhere("addr"))
def addr(x: Any, y: Any, z: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return plus_scaled(x, torch.outer(y, z), beta, alpha)


@register_rule(torch.chain_matmul)
def chain_matmul(*matrices: Any) -> Any:
    return multi_dot(matrices)


@register_rule(torch.linalg.multi_dot)
def multi_dot(matrices: Sequence[Any]) -> Any:
    out = matrices[0]
    for matrix in matrices[1:]:
        out = torch.matmul(out, matrix)
    return out


@register_rule(*everywhere("trace"))
def trace(x: Jet) -> Jet:
    return Jet(x.parts.diagonal(dim1=-2, dim2=-1).sum(-1))
