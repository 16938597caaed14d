"""Attention by blocks of queries: the same numbers and gradients, without the scores of all of them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from meanflow_tune.core.jets import Jet
from meanflow_tune.core.jets.rules import attention

BATCH, HEADS, LENGTH, SOURCES, WIDTH = 2, 4, 23, 19, 6


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operands(components: int, heads: int = HEADS) -> tuple[Tensor, Tensor, Tensor]:
    return (
        draw(components, BATCH, HEADS, LENGTH, WIDTH, seed=1),
        draw(components, BATCH, heads, SOURCES, WIDTH, seed=2),
        draw(components, BATCH, heads, SOURCES, 5, seed=3),
    )


BOOLEAN = draw(LENGTH, SOURCES, seed=4) > -0.5
BOOLEAN[3] = False  # a query that may look nowhere
FLOAT = draw(BATCH, 1, LENGTH, SOURCES, seed=5)
MASKS = {
    "none": {},
    "boolean": {"attn_mask": BOOLEAN},
    "float": {"attn_mask": FLOAT},
    "one row for all": {"attn_mask": BOOLEAN[:1]},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
}


def by_torch(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> list[Tensor]:
    """The components by nested forward mode of torch through its own attention."""
    e = torch.zeros((), dtype=q.dtype)

    def along(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return x[0] + a * x[1] + b * x[2] + a * b * x[3] if len(x) == 4 else x[0] + a * x[1]

    def f(a: Tensor, b: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(*(along(x, a, b) for x in (q, k, v)), **options)

    def first(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(lambda a: f(a, b), (a,), (torch.ones_like(a),))  # type: ignore[no-any-return]

    if len(q) == 2:
        return list(first(e, e))
    (u, d1), (d2, d12) = torch.func.jvp(lambda b: first(e, b), (e,), (torch.ones_like(e),))
    return [u, d1, d2, d12]


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of five queries, the last one of three."""
    monkeypatch.setattr(attention, "block_rows", lambda *_: 5)


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("apart", [False, True], ids=["stacked", "apart"])
@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("components", [2, 4])
@pytest.mark.parametrize("name", MASKS)
def test_blocks_are_torchs_own_attention(
    name: str, components: int, grad: bool, apart: bool
) -> None:
    q, k, v = operands(components)
    expected = by_torch(q, k, v, MASKS[name])
    jets = [Jet.of(x.unbind()) if apart else Jet(x) for x in (q, k, v)]
    with torch.set_grad_enabled(grad):
        found: Any = F.scaled_dot_product_attention(*jets, **MASKS[name])  # type: ignore[arg-type]
    blind = torch.isnan(torch.stack(expected))  # torch's derivative of a row that looks nowhere
    torch.testing.assert_close(
        found.parts.masked_fill(blind, 0.0), torch.stack(expected).masked_fill(blind, 0.0)
    )
    assert found.parts.isfinite().all()


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("jets", ["qkv", "q", "k", "v", "kv"])
@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_constants_among_the_operands(jets: str, grad: bool) -> None:
    stacked = dict(zip("qkv", operands(4), strict=True))
    for name in set("qkv") - set(jets):
        stacked[name][1:] = 0.0
    expected = torch.stack(by_torch(*stacked.values(), {}))
    given = [Jet(x) if name in jets else x[0] for name, x in stacked.items()]
    with torch.set_grad_enabled(grad):
        found: Any = F.scaled_dot_product_attention(*given)  # type: ignore[arg-type]
    torch.testing.assert_close(found.parts, expected)


@pytest.mark.usefixtures("few_rows")
def test_grouped_heads_and_broadcast_batches() -> None:
    q, k, v = operands(4, heads=2)
    grouped: Any = F.scaled_dot_product_attention(*map(Jet, (q, k, v)), enable_gqa=True)  # type: ignore[arg-type]
    expected = by_torch(q, k.repeat_interleave(2, 2), v.repeat_interleave(2, 2), {})
    torch.testing.assert_close(grouped.parts, torch.stack(expected))
    with pytest.raises(ValueError, match=r"multiple.*4 and 3"):
        F.scaled_dot_product_attention(*map(Jet, operands(4, heads=3)), enable_gqa=True)  # type: ignore[arg-type]
    q, k, v = operands(4)
    one: Any = F.scaled_dot_product_attention(Jet(q), Jet(k[:, :1, :1]), Jet(v[:, :1, :1]))  # type: ignore[arg-type]
    shape = (4, BATCH, HEADS, -1, -1)
    expected = by_torch(q, k[:, :1, :1].expand(shape), v[:, :1, :1].expand(shape), {})
    torch.testing.assert_close(one.parts, torch.stack(expected))


@pytest.mark.parametrize("components", [2, 4])
@pytest.mark.parametrize("name", ["none", "boolean", "float", "causal"])
def test_gradients_are_those_of_one_block(
    name: str, components: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = draw(components, BATCH, HEADS, LENGTH, 5, seed=6)
    gradients = []
    for rows in (LENGTH, 5):
        monkeypatch.setattr(attention, "block_rows", lambda *_, rows=rows: rows)
        leaves = [x.requires_grad_() for x in operands(components)]
        out: Any = F.scaled_dot_product_attention(*map(Jet, leaves), **MASKS[name])  # type: ignore[arg-type]
        gradients.append(torch.autograd.grad((out.parts * weight).sum(), leaves))
    for one, blocks in zip(*gradients, strict=True):
        torch.testing.assert_close(blocks, one)


class Largest(TorchDispatchMode):
    """The most elements that an operator made within."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return out


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("tokens", [256, 1024])
def test_no_tensor_is_quadratic_in_tokens(tokens: int, grad: bool) -> None:
    """Nothing is larger than one plain matrix of scores, a quarter of what all components would take;
    nor in the backward pass."""
    heads, width = 2, 16
    leaves = [torch.randn(4, heads, tokens, width, requires_grad=grad) for _ in range(3)]
    with torch.set_grad_enabled(grad), Largest() as largest:
        out: Any = F.scaled_dot_product_attention(*map(Jet, leaves))  # type: ignore[arg-type]
        if grad:
            out.parts.square().sum().backward()
    assert largest.elements <= 4 * heads * attention.FEWEST_ROWS * tokens
    assert largest.elements <= heads * tokens * tokens
