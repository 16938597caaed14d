"""Rules for matrix products, convolutions and other operators that are linear in each operand.

Storage of a jet is x = (x₀, x₁, x₂, x₁₂) or (x₀, x₁), stacked on axis 0.
"""

import itertools
import string
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jets.errors import UnsupportedOperator
from meanflow_tune.core.jets.jet import Jet, align, autocast_dtype, broadcast
from meanflow_tune.core.jets.register import everywhere, register_rule
from meanflow_tune.core.jets.rules.arithmetic import add

# Components (of x, of y) with no direction in common, by the component that they add to.
_SHARES = ([(0, 0)], [(1, 0), (0, 1)], [(2, 0), (0, 2)], [(3, 0), (0, 3), (1, 2), (2, 1)])


def bilinear(operator: Callable[[Tensor, Tensor], Tensor], x: Any, y: Any) -> Jet:
    """The jet of operator(x, y), which is linear in each operand; one operand may be a constant."""
    if not isinstance(y, Jet):
        return _kept(x.parts, torch.stack([operator(part, y) for part in x.parts]))
    if not isinstance(x, Jet):
        return _kept(y.parts, torch.stack([operator(x, part) for part in y.parts]))
    a, b = x.parts, y.parts
    components = [[operator(a[i], b[k]) for i, k in shares] for shares in _SHARES[: len(a)]]
    return _kept(a, torch.stack([sum(terms[1:], terms[0]) for terms in components]))


def _kept(operand: Tensor, product: Tensor) -> Jet:
    """A product, cast back to the type of the operand where autocast computed it in another."""
    return Jet(product if autocast_dtype(operand) is None else product.to(operand.dtype))


@register_rule(F.linear)
def linear(x: Any, weight: Any, bias: Any = None) -> Jet:
    if isinstance(weight, Jet) or isinstance(bias, Jet) or not isinstance(x, Jet):
        # The layers of this network are made by another network.
        product = torch.matmul(x, weight.mT if weight.dim() > 1 else weight)
        return product if bias is None else product + bias  # type: ignore[return-value]
    return _shifted(x, F.linear(x.parts, weight), bias)


def _shifted(x: Jet, out: Tensor, bias: Any) -> Jet:
    """The jet of fresh storage `out` plus `bias`, with components apart if those of x are."""
    if out.dtype != x.dtype:  # as autocast makes it
        out = out.to(x.dtype)
    if isinstance(bias, Jet):
        return add(Jet(out), bias)
    if x.apart:
        value, *rest = out.unbind()
        return Jet.of([value if bias is None else value + bias, *rest])
    if bias is not None:
        out[0] += bias
    return Jet(out)


@register_rule(torch.matmul, *everywhere("bmm", "mm", "mv"))
def matmul(x: Any, y: Any) -> Jet:
    rank_x, rank_y = x.dim(), y.dim()
    if _apart(x, y):
        of = x if isinstance(x, Jet) else y
        return Jet.of([part.to(of.dtype) for part in product_apart(x, y)])
    if rank_x == 1 or rank_y == 1:  # torch then inserts an axis and drops it again
        left = x if rank_x > 1 else x.unsqueeze(0)
        right = y if rank_y > 1 else y.unsqueeze(1)
        product = matmul(left, right)
        dropped = [d for d, rank in ((-2, rank_x), (-1, rank_y)) if rank == 1]
        return Jet(product.parts.squeeze(tuple(dropped)))
    if not isinstance(y, Jet):
        return Jet(torch.matmul(align(x.parts, rank_y), y).to(x.parts.dtype))
    if not isinstance(x, Jet):
        return Jet(torch.matmul(x, align(y.parts, rank_x)).to(y.parts.dtype))
    a, b = align(x.parts, rank_y), align(y.parts, rank_x)
    if 0 in a.shape or 0 in b.shape:
        return bilinear(torch.matmul, x, y)
    low = autocast_dtype(a)
    if low is None:
        return Jet(matrix_product(a, b))
    return Jet(matrix_product(a.to(low), b.to(low)).to(a.dtype))


@register_rule(Tensor.matmul, Tensor.__matmul__)
def matmul_of(x: Any, y: Any) -> Jet:
    if not isinstance(x, Jet) and torch.compiler.is_compiling():
        # The compiler passes `jet @ constant` with exchanged sides, as if it were `constant @ jet`.
        raise UnsupportedOperator("`@` with a constant in compiled code", "use torch.matmul")
    return matmul(x, y)


def _apart(*operands: Any) -> bool:
    return any(isinstance(x, Jet) and x.apart for x in operands)


def product_apart(x: Any, y: Any) -> list[Tensor]:
    """Components of x @ y. Factors of one component are concatenated along the axis that the product sums
    over, so that one product per component also adds its terms."""
    if not isinstance(y, Jet):
        return [torch.matmul(part, y) for part in x.components]
    if not isinstance(x, Jet):
        return [torch.matmul(x, part) for part in y.components]
    a, b = x.components, y.components
    along = -1 if b[0].dim() == 1 else -2
    return [
        torch.matmul(torch.cat([a[i] for i in left], -1), torch.cat([b[i] for i in right], along))
        for left, right in _SIDES[: len(a)]
    ]


# For each component, the components of x and of y whose products add to it.
_SIDES = [([0], [0]), ([1, 0], [0, 1]), ([2, 0], [0, 2]), ([3, 0, 1, 2], [0, 3, 2, 1])]


def matrix_product(x: Tensor, y: Tensor) -> Tensor:
    """Storage of x @ y from storages [K, ..., M, L] and [K, ..., L, N]."""
    pairs = [(1, 0), (0, 1)] if len(x) == 2 else _PAIRS
    if torch.is_grad_enabled():
        out = torch.matmul(x, y[0])
        for i, k in pairs:
            if k > 0:
                out[i + k] += torch.matmul(x[i], y[k])
        return out
    count, batch = len(x), broadcast(x.shape[1:-2], y.shape[1:-2])
    # Products are accumulated in place; torch.matmul would allocate a tensor for each.
    a = x.expand(count, *batch, *x.shape[-2:]).reshape(count, -1, *x.shape[-2:])
    b = y.expand(count, *batch, *y.shape[-2:]).reshape(count, -1, *y.shape[-2:])
    out = x.new_empty(count, a.shape[1], x.shape[-2], y.shape[-1])
    torch.bmm(a[0], b[0], out=out[0])
    for i, k in pairs:
        if k == 0:
            torch.bmm(a[i], b[0], out=out[i])
        else:
            out[i + k].baddbmm_(a[i], b[k])
    return out.reshape(count, *batch, x.shape[-2], y.shape[-1])


# Components (of x, of y) whose product adds to component i + k, for directions {} 0, {1} 1, {2} 2 and
# {1, 2} 3: all pairs without a direction in common, but for (0, 0).
_PAIRS = [(1, 0), (0, 1), (2, 0), (0, 2), (3, 0), (0, 3), (1, 2), (2, 1)]


@register_rule(*everywhere("__rmatmul__"))
def reverse_matmul(x: Any, y: Any) -> Jet:
    return matmul(y, x)


@register_rule(*everywhere("addmm", "baddbmm"))
def addmm(x: Any, y: Any, z: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return plus_scaled(x, torch.matmul(y, z), beta, alpha)


def plus_scaled(x: Any, product: Any, beta: float, alpha: float) -> Any:
    """beta · x + alpha · product; with beta = 0 torch ignores x, which may be uninitialised."""
    product = product * alpha
    if beta == 0:
        return product if isinstance(product, Jet) else Jet(torch.zeros_like(x.parts)) + product
    return x * beta + product


@register_rule(torch.einsum)
def einsum(equation: Any, *operands: Any) -> Jet:
    if not isinstance(equation, str):
        return einsum(*_with_equation(equation, *operands))
    jets = [i for i, x in enumerate(operands) if isinstance(x, Jet)]
    first: Jet = operands[jets[0]]
    if len(jets) == 1 and "->" in equation:
        # One more index letter carries the components through a single call.
        letter = next(c for c in string.ascii_letters if c not in equation)
        left, right = equation.split("->")
        terms = [
            letter + term.strip() if i == jets[0] else term
            for i, term in enumerate(left.split(","))
        ]
        plain = [x.parts if isinstance(x, Jet) else x for x in operands]
        product = torch.einsum(f"{','.join(terms)}->{letter}{right.strip()}", *plain)
        return Jet(product.to(first.parts.dtype))

    def term(chosen: dict[int, int]) -> Tensor:
        """The product with component chosen[i] of operand i and the values of the others."""
        return torch.einsum(
            equation,
            *(x.parts[chosen.get(i, 0)] if i in jets else x for i, x in enumerate(operands)),
        )

    out = [term({})]
    for component in range(1, len(first.parts)):
        out.append(sum((term({i: component}) for i in jets), torch.zeros_like(out[0])))
    if len(first.parts) == 4:
        for i, k in itertools.permutations(jets, 2):
            out[3] = out[3] + term({i: 1, k: 2})
    return Jet(torch.stack(out).to(first.parts.dtype))


def _with_equation(*given: Any) -> list[Any]:
    """Operands that are each followed by a list of numbers of axes, as one equation and the operands."""
    terms = [_term(numbers) for numbers in given[1::2]]
    result = f"->{_term(given[-1])}" if len(given) % 2 else ""
    return [f"{','.join(terms)}{result}", *given[: 2 * len(terms) : 2]]


def _term(numbers: Any) -> str:
    """The letters that torch too gives to the numbers: without a result, letters decide its order."""
    letters = string.ascii_uppercase + string.ascii_lowercase
    return "".join("..." if number is Ellipsis else letters[number] for number in numbers)


def _convolution(operator: Any, spatial: int) -> None:
    def rule(x: Any, weight: Any, bias: Any = None, *options: Any, **named: Any) -> Jet:
        if isinstance(weight, Jet):  # a layer made by another network
            made = bilinear(lambda a, b: operator(a, b, None, *options, **named), x, weight)
            return made if bias is None else add(made, bias.reshape(-1, *([1] * spatial)))
        parts = x.parts
        batched = parts.dim() == spatial + 3
        # The components join the batch: one convolution instead of K.
        images = parts.flatten(0, 1) if batched else parts
        folded = operator(images, weight, None, *options, **named)
        out = folded.unflatten(0, parts.shape[:2]) if batched else folded
        return _shifted(x, out, None if bias is None else bias.reshape(-1, *([1] * spatial)))

    register_rule(operator)(rule)


for _spatial in (1, 2, 3):
    _convolution(getattr(torch, f"conv{_spatial}d"), _spatial)
    _convolution(getattr(torch, f"conv_transpose{_spatial}d"), _spatial)


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
