"""The rules of derivatives, one operator after the other, against torch's reverse mode twice over."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanflow_tune.core.jets import Jet

W = torch.linspace(-1.0, 1.3, 12, dtype=torch.float64).reshape(3, 4)
P = W.exp()

OPERATORS = {
    "add constant": lambda x: W + x + 2.0 + torch.add(1.0 * x, x, alpha=0.5),
    "subtract": lambda x: W - x - (1.0 - x * x) + torch.sub(x, W, alpha=2.0) - torch.rsub(x, x * x),
    "multiply": lambda x: W * x * 3.0 * x.mul(x),
    "divide": lambda x: W / (2 + x * x) + x / P + 1.0 / (3 + x) + x / (3 + x),
    "rank grows": lambda x: (torch.ones(2, 1, 4, dtype=W.dtype) * x + x[0]) * x[:2, None, :1],
    "rank grows by adding": lambda x: torch.ones(2, 1, 4, dtype=W.dtype) + x * x,
    "power": lambda x: x**2 + x**3 + (3 + x) ** 0.5 + x**1 + x**0 + (x * x) ** 1.0,
    "power of tensors": lambda x: 2.0**x + P**x + (3 + x) ** x + torch.pow(3 + x, W),
    "power of an exponent tensor": lambda x: (3 + x) ** torch.tensor([-1.5, 1, 2, 3]),
    "exp log": lambda x: x.exp() + torch.log(3 + x) + torch.log1p(x * x) + torch.expm1(x),
    "roots": lambda x: torch.sqrt(3 + x) + (3 + x).rsqrt() + torch.reciprocal(3 + x),
    "waves": lambda x: x.sin() * torch.cos(x),
    "sigmoids": lambda x: torch.tanh(x) + x.sigmoid() + torch.erf(x) + F.tanh(x) + x.atan(),
    "softplus": lambda x: F.softplus(x) + F.softplus(x, beta=2.0) + F.logsigmoid(x),
    "silu mish": lambda x: F.silu(x) * F.mish(x),
    "gelu": lambda x: F.gelu(x),
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "softmax": lambda x: torch.softmax(x * x, 0) + x.softmax(dim=-1) + F.softmax(x, dim=1),
    "log softmax": lambda x: F.log_softmax(x, dim=-1) + torch.log_softmax(x * x, 0),
    "logsumexp": lambda x: x + torch.logsumexp(x, 0) + x.logsumexp(-1, keepdim=True),
    "reductions": lambda x: x * x.sum() + x.mean(0) + (x * x).sum((0, 1), keepdim=True) * x.mean(),
    "variance": lambda x: x * x.var(dim=-1, keepdim=True) + x.std(0, unbiased=False) + x.var(),
    "variance with a correction": lambda x: x * torch.var(x, dim=(0, 1), correction=0),
    "layer norm": lambda x: F.layer_norm(x * x, (4,), W[0], W[1]) + F.layer_norm(x, (3, 4)),
    "layer norm of little variance": lambda x: F.layer_norm(x * 1e-3, (4,)),
    "group norm": lambda x: F.group_norm(x.reshape(1, 4, 3), 2, W[0], W[1]).reshape(3, 4),
    "rms norm": lambda x: F.rms_norm(x, (4,), W[0]) + F.rms_norm(x, (3, 4), eps=0.1),
    "batch norm": lambda x: F.batch_norm(x * x, W[0], P[0], W[1], W[2]),
    "matmul": lambda x: x @ x.mT @ x + W @ W.mT @ x + x @ W.mT @ W + torch.matmul(x.T, x)[:3],
    "matmul of vectors": lambda x: x * (x @ x[0])[:, None] * (x @ W[0])[:, None],
    "matmul vector left": lambda x: x + W[:, 0] @ x + x[0] @ x.mT @ W + x[0] @ x[1],
    "matmul of ranks": lambda x: (torch.stack([W, P]) @ x.mT @ x).sum(0) + (x @ x.mT[None])[0] @ W,
    "bmm": lambda x: torch.bmm(x[None], x.mT[None])[0] @ x + torch.addmm(x, x, W.mT @ x),
    "einsum": lambda x: torch.einsum("ij,kj,kl->il", x, x, x * x),
    "einsum implicit": lambda x: torch.einsum("ij,jk", x, W.mT @ W),
    "einsum one": lambda x: torch.einsum("ij, kj -> ki", W * x, P)[:, :1] + x,
    "einsum by numbers": lambda x: (
        torch.einsum(x, [0, 1], x * x, [2, 1], [2, 0]) @ torch.einsum(W.mT @ W, [2, 40], x, [30, 2])
        + torch.einsum(x, [..., 1], x * x, [..., 1], [..., 1])
    ),
    "attention": lambda x: F.scaled_dot_product_attention(x, 2 * x, x * x, scale=0.7),
    "attention to constants": lambda x: F.scaled_dot_product_attention(x, W, P),
    "attention of constants": lambda x: F.scaled_dot_product_attention(W, P, x * x),
    "attention from constants": lambda x: F.scaled_dot_product_attention(W, x, P),
    "attention with its own mask": lambda x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=x @ x.mT
    ),
    "attention of four axes": lambda x: F.scaled_dot_product_attention(
        *torch.stack([x, x * x, x + W])[:, None, None].expand(3, 2, 5, 3, 4)
    )[1, 2],
    "shapes": lambda x: x.reshape(4, 3).T.reshape(-1).view(2, 6).flatten().unflatten(0, (3, 4)),
    "axes": lambda x: x.unsqueeze(0).permute(2, 0, 1).squeeze(1).transpose(0, 1).movedim(1, -1),
    "squeeze": lambda x: x[None, :, None].squeeze() * x[None].squeeze(0) * x[..., None].squeeze(-1),
    "expand repeat": lambda x: x[:1].expand(3, -1) * x.repeat(2, 1)[1:4] * x[0].expand_as(x),
    "chunk cat": lambda x: torch.cat([y * y for y in x.chunk(2, dim=1)[::-1]], 1),
    "split stack": lambda x: torch.stack([a * b for a, b in zip(*x.split([1, 3], 1), strict=True)]),
    "unbind": lambda x: x.unbind(1)[2] * torch.stack(list(x)).sum(1),
    "cat with constants": lambda x: torch.cat([W, x * x, P], dim=0)[2:5],
    "indexing": lambda x: x[:, [3, 1, 0, 2]] * x[torch.tensor([2, 0, 1])] + x[1, ..., None, 2],
    "index tensors apart": lambda x: (
        x[None]
        .expand(2, 3, 4)[torch.tensor([0, 1, 0]), :, torch.tensor([1, 2, 3])]
        .mT.repeat(1, 2)[:, 1:5]
    ),
    "boolean index": lambda x: x * x[W > 0].sum() + x.index_select(1, torch.tensor([3, 2, 1, 0])),
    "flip roll": lambda x: x.flip(0) * torch.roll(x, 1, dims=1) + x.cumsum(1) + torch.tril(x * x),
    "pad": lambda x: (
        F.pad(x, (1, 0), value=2.0)[:, :4] * F.pad(x[None], (1, 1), "reflect")[0, :, 2:]
    ),
    "unfold": lambda x: x.unfold(1, 2, 1).sum(-1).repeat(1, 2)[:, :4] * x,
    "where": lambda x: torch.where(W > 0, x * x, x) + torch.where(x > 0.1, x, 2.0) * x,
    "masked fill": lambda x: x.masked_fill(W > 0, 3.0) * x,
    "lerp addcmul": lambda x: torch.lerp(x, x * x, 0.3) + torch.addcmul(x, x, W, value=2.0),
    "convolution 1": lambda x: F.conv1d(x[None], P[:, :3, None], W[:, 0], padding=0)[0] * x,
    "convolution unbatched": lambda x: F.conv1d(x * x, P[:, :3, None].expand(3, 3, 3), padding=1),
    "interpolate": lambda x: F.interpolate(x[None], scale_factor=2)[0, :, 1:5] * x,
    "pool": lambda x: F.avg_pool1d(x[None], 3, 1, 1)[0] * x,
    "types": lambda x: x.to(torch.float64).contiguous().clone().type_as(W) * x.double(),
    "constants like it": lambda x: torch.ones_like(x) * x + torch.zeros_like(x) + x.new_ones(4) * x,
    "dropout at rest": lambda x: F.dropout(x, 0.5, training=False) * F.dropout(x, 0.0),
}


def pushed(operator: object, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """f and its derivatives along a, b and both, by torch's reverse mode twice over."""
    e = torch.zeros(2, dtype=x.dtype, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):  # the fast one cannot be differentiated twice
        f = operator(x + e[0] * a + e[1] * b + e[0] * e[1] * (a - b))  # type: ignore[operator]
    rows = []
    for entry in f.reshape(-1):
        (first,) = torch.autograd.grad(entry, e, create_graph=True)
        mixed = torch.zeros(())
        if first.requires_grad:
            found = torch.autograd.grad(first[0], e, retain_graph=True, allow_unused=True)[0]
            mixed = mixed if found is None else found[1]
        rows.append(torch.stack([entry, first[0], first[1], mixed.to(x.dtype)]).detach())
    return tuple(torch.stack(rows, 1).reshape(4, *f.shape))


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_against_reverse_mode(name: str) -> None:
    x, a, b = (torch.sin(W * k + k) for k in (1.0, 2.3, 3.1))
    expected = torch.stack(pushed(OPERATORS[name], x, a, b))
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            full = OPERATORS[name](Jet(torch.stack([x, a, b, a - b]))).parts
            first = OPERATORS[name](Jet(torch.stack([x, a]))).parts
        torch.testing.assert_close(full, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(first, expected[:2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_through_operator(name: str) -> None:
    """Of a weighted sum of all components, in all components, against central differences."""
    x, a, b = (torch.sin(W * k + k) for k in (1.0, 2.3, 3.1))
    parts = torch.stack([x, a, b, a - b]).requires_grad_()

    def score(parts: Tensor) -> Tensor:
        out = OPERATORS[name](Jet(parts * 1.0)).parts
        weight = torch.sin(torch.arange(out.numel(), dtype=out.dtype) + 1).reshape(out.shape)
        return (out * weight).sum()

    (gradient,) = torch.autograd.grad(score(parts), parts)
    direction, step = torch.cos(torch.stack([W, W - 1, W * 3, W * 5])), 1e-5
    with torch.no_grad():
        slope = (score(parts + step * direction) - score(parts - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("components", [2, 4])
@pytest.mark.parametrize("name", OPERATORS)
def test_components_apart_give_what_stacked_ones_give(name: str, components: int) -> None:
    """The form of rules in compiled code, here without a compiler."""
    x, a, b = (torch.sin(W * k + k) for k in (1.0, 2.3, 3.1))
    parts = torch.stack([x, a, b, a - b])[:components]
    before = parts.clone()
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            apart = OPERATORS[name](Jet.of(parts.unbind())).parts
            stacked = OPERATORS[name](Jet(parts)).parts
        torch.testing.assert_close(apart, stacked, rtol=1e-12, atol=1e-12)
        assert torch.equal(parts, before)


def test_comparisons_and_attributes_are_those_of_the_value() -> None:
    x = torch.sin(W)
    jet = Jet(torch.stack([x, W, W, P]))
    assert torch.equal(jet > 0.1, x > 0.1)
    assert torch.equal(torch.le(W, jet), x >= W)
    assert torch.equal(W >= jet, x <= W)  # noqa: SIM300 (the tensor on the left)
    assert torch.equal(torch.isfinite(jet), torch.isfinite(x))
    assert (jet.shape, jet.ndim, jet.dim(), jet.size(1), len(jet)) == ((3, 4), 2, 2, 4, 3)
    assert (jet.dtype, jet.device, jet.numel()) == (x.dtype, x.device, 12)
    assert bool(jet[0, 0] < 0)
    assert "(3, 4)" in repr(jet)


def test_powers_at_zero_have_no_zero_times_infinity() -> None:
    """x⁰, x¹, x² and x³ at x = 0, where x⁻¹ and x⁻² must not be multiplied by zero."""
    jet = Jet(torch.tensor([[0.0], [2.0], [3.0], [5.0]]).expand(4, 4))
    by_tensor = (jet ** torch.tensor([0.0, 1.0, 2.0, 3.0])).parts
    by_number = torch.stack([(jet[i] ** i).parts for i in range(4)], dim=1)
    expected = torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 3, 0, 0], [0, 5, 12, 0]])
    assert torch.equal(by_tensor, expected)
    assert torch.equal(by_number, expected)


def test_in_place_operators_are_seen_through_views() -> None:
    def operator(x: Tensor) -> Tensor:
        y = x * 1.0
        view = y.reshape(4, 3)
        y += x * x
        y -= W
        y *= x
        y /= 2.0
        F.silu(y[0], inplace=True)
        return view * view

    x, a, b = (torch.sin(W * k + k) for k in (1.0, 2.3, 3.1))
    with torch.no_grad():
        found = operator(Jet(torch.stack([x, a, b, a - b])))  # type: ignore[arg-type]
        apart = operator(Jet.of([x.clone(), a.clone(), b.clone(), a - b]))  # type: ignore[arg-type]

    def without_views(x: Tensor) -> Tensor:
        y = (x + x * x - W) * x / 2
        y = torch.cat([F.silu(y[:1]), y[1:]]).reshape(4, 3)
        return y * y

    expected = torch.stack(pushed(without_views, x, a, b))
    for each in (found, apart):
        torch.testing.assert_close(each.parts, expected, rtol=1e-9, atol=1e-9)  # type: ignore[attr-defined]


def test_storage_of_two_jets_is_never_one() -> None:
    """What is written into the one jet must not be seen in the other, with components apart too."""
    parts = torch.stack([torch.sin(W), W, P, W * P])
    for jet in (Jet(parts.clone()), Jet.of(parts.clone().unbind())):
        for made in (jet + 1.0, 1.0 - jet, jet * 1.0, torch.cat([jet], 0)):  # type: ignore[list-item]
            made *= 3.0
        torch.testing.assert_close(jet.parts, parts)


NAMED = {
    "operands by name": lambda x: torch.add(input=x, other=x * x) + torch.mul(input=W, other=x),
    "methods by name": lambda x: x.add(other=x * x, alpha=0.5) * x.pow(exponent=2),
    "options of numpy": lambda x: x * x.sum(axis=1, keepdims=True) + torch.mean(x * x, axis=0),
    "where by name": lambda x: torch.where(condition=W > 0, input=x * x, other=W),
    "method where by name": lambda x: x.where(W > 0, other=x * x),
    "matrices by name": lambda x: (
        torch.mm(input=x, mat2=x.mT) @ torch.addmm(x, mat1=W, mat2=x.mT @ x)
    ),
    "softmax by name": lambda x: torch.softmax(input=x * x, axis=-1),
    "attention by name": lambda x: F.scaled_dot_product_attention(query=x, key=x, value=x),
    "lerp by name": lambda x: torch.lerp(input=x, end=W, weight=x),
    "differences": lambda x: (
        x * x.diff(prepend=W[:, :1]) + torch.diff(x, 2, 0, W[:2], x[:2] * x[2:])[:3]
    ),
    # The input of these two is never read for beta = 0: attention of old gives an empty one.
    "uninitialised": lambda x: torch.baddbmm(
        NONE[None], x[None], x.mT[None] @ x, beta=0, alpha=0.5
    )[0],
    "uninitialised matrix": lambda x: torch.addmm(NONE, x, W.mT @ x, beta=0),
}
NONE = torch.full((3, 4), float("nan"), dtype=torch.float64)


@pytest.mark.parametrize("name", NAMED)
def test_operands_and_options_by_name(name: str) -> None:
    x, a, b = (torch.sin(W * k + k) for k in (1.0, 2.3, 3.1))
    expected = torch.stack(pushed(NAMED[name], x, a, b))
    found = NAMED[name](Jet(torch.stack([x, a, b, a - b]))).parts
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_an_uninitialised_jet_is_not_read_for_beta_zero() -> None:
    jet = Jet(NONE.expand(4, 3, 4))
    found = torch.addmm(jet, W, W.mT @ W, beta=0).parts  # type: ignore[call-overload]
    assert torch.equal(found[0], W @ (W.mT @ W))
    assert not found[1:].any()
