"""What the derivative pass refuses, and that nothing goes round it in silence."""

import copy
import doctest
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from meanflow_tune.core.jets import Jet, UnsupportedOperator, chain, register, register_rule
from meanflow_tune.core.jets import jet as jet_module
from meanflow_tune.core.jets.table import RULES

W = torch.linspace(-1.0, 1.3, 12, dtype=torch.float64).reshape(3, 4)
P = W.exp()


def jet() -> Any:
    return Jet(torch.stack([W, P]))


def _fast_encoder_layer(x: Any) -> Any:
    """What nn.TransformerEncoderLayer calls in eval for tensors."""
    weights, norms = [W] * 4, [W] * 4
    return torch._transformer_encoder_layer_fwd(
        x, 4, 2, *weights, False, False, 1e-5, *norms, *[W] * 4
    )


def _padded_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dtype=torch.float64)
    return nn.TransformerEncoder(layer, 1).eval()


def test_unknown_function_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedOperator, match=r"bessel_j0.*register_rule"):
        torch.special.bessel_j0(jet())


@pytest.mark.parametrize(
    "operator, named",
    [
        (lambda x: x.digamma(), "Tensor.digamma"),
        (lambda x: x.item(), r"item.*callback"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.numpy(), "numpy"),
        (lambda x: x.data_ptr(), "data_ptr"),
        (lambda x: x.storage_offset(), "storage_offset"),
        (lambda x: x.register_hook(print), "register_hook"),
        (lambda x: x.long(), r"long.*no derivative"),
        (lambda x: x.to(torch.int64), "int64"),
        (lambda x: x.type(torch.bool), "bool"),
        (lambda x: x.type_as(torch.arange(3)), "int64"),
        (lambda x: x.view(torch.int64), "dtype"),
        (lambda x: F.dropout(x, 0.3), "dropout"),
        (lambda x: F.dropout2d(x[None], 0.3), "dropout"),
        (lambda x: F.rrelu(x, training=True), "training"),
        (lambda x: W.clone().add_(x), "has none"),
        (lambda x: torch.zeros(3, 4).copy_(x), "has none"),
        (lambda x: torch.zeros(3, 4).__setitem__(0, x[0]), "zeros_like"),
        (lambda x: W[x], "index with derivatives"),
        (lambda x: x[x], "index with derivatives"),
        (lambda x: x.__setitem__(x, 1.0), "index with derivatives"),
        (lambda x: x.scatter(1, x, 1.0), "index with derivatives"),
        (lambda x: torch.gather(W, 1, x), "beyond its first operand"),
        (lambda x: x.scatter(1, torch.zeros(3, 4, dtype=torch.long), x, reduce="multiply"), "reduce"),
        (lambda x: torch.sin(W, out=x), "out="),
        (lambda x: torch.add(x, x, out=W.clone()), "out="),
        (lambda x: F.layer_norm(W, (4,), x[0]), "weight"),
        (lambda x: F.batch_norm(W, P[0], P[0], x[0]), "weight"),
        (lambda x: F.prelu(x, x[0]), "weight"),
        (lambda x: F.embedding(x, W), r"embedding.*no derivative"),
        (lambda x: F.grid_sample(W[None, None], x[None, :, :2, None]), "grid_sample"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "rounding"),
        (lambda x: F.batch_norm(x, None, None, training=True), "batch statistics"),
        (lambda x: nn.BatchNorm1d(4).double()(x), "batch statistics"),
        (lambda x: nn.InstanceNorm1d(3, track_running_stats=True)(x[None]), "running statistics"),
        (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1), "dropout_p=0.1"),
        (lambda x: nn.MultiheadAttention(4, 2, dropout=0.1).double()(x, x, x), "dropout"),
        (lambda x: _padded_encoder()(x[None], None, ~(W[None, :, 0] > 0)), "enable_nested_tensor=False"),
        (lambda x: nn.GRU(4, 4).double()(x), r"gru.*write the cell"),
        (lambda x: nn.LSTMCell(4, 4).double()(x), "lstm_cell"),
        (lambda x: pack_padded_sequence(x, [3]), "_pack_padded_sequence"),
        (lambda x: torch.trapezoid(x), "trapezoid"),
        (lambda x: torch.linalg.norm(x, 1), "matrix norm"),
        (lambda x: torch.norm(x, "nuc"), "nuclear"),
        (lambda x: torch.autograd.grad(x, x), r"grad.*formula"),
        (lambda x: float(x[0, 0]), "float"),
        (lambda x: int(x[0, 0]), "int"),
        # Ways round the operators of torch:
        (lambda x: torch.tensor(x), r"tensor.*torch.stack"),
        (lambda x: torch.tensor([x[0, 0], 1.0]), "torch.stack"),
        (lambda x: torch.as_tensor(x), r"torch.stack.*torch.is_tensor\(x\)"),
        (lambda x: np.asarray(x), "numpy"),
        (lambda x: np.sin(x), "numpy"),
        (lambda x: torch.full((2,), x[0, 0]), "full"),
        (lambda x: torch.arange(x[0, 0]), "arange"),
        (lambda x: torch.linspace(0, x[0, 0], 3), "linspace"),
        (lambda x: torch.ops.aten.sin(x), "aten.sin"),
        (lambda x: torch.ops.aten.sin.default(x), "aten.sin"),
        (lambda x: torch.jit.script(nn.Linear(4, 4).double())(x), "forward"),
        (lambda x: _fast_encoder_layer(x), "encoder_layer"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_refusals_name_the_operator(operator: Callable[[Any], Any], named: str) -> None:
    with pytest.raises(UnsupportedOperator, match=named):
        operator(jet())


@pytest.mark.parametrize(
    "operator",
    [
        lambda x: torch.Tensor(x),
        lambda x: torch.FloatTensor(x),
        lambda x: torch.from_numpy(x),
        lambda x: torch.func.jvp(torch.sin, (x,), (x,)),
        lambda x: torch.func.vmap(torch.sin)(x),
        lambda x: x // 2,
        lambda x: x & x,
    ],
)
def test_what_takes_tensors_only_raises(operator: Callable[[Any], Any]) -> None:
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        operator(jet())


def test_an_operator_without_a_rule_never_returns() -> None:
    """All that torch lets objects override, given jets: what has no rule raises, and says so."""
    functions = torch.overrides.get_overridable_functions()
    tried = refused = 0
    for owner, members in functions.items():
        for function in members:
            if function in RULES or "__get__" in repr(function):
                continue
            name = torch.overrides.resolve_name(function) or repr(function)
            if owner is Tensor and name.rpartition(".")[2].startswith("__"):
                continue  # Python's own protocol: those that Jet has are tested by themselves
            for count in (1, 2, 3):
                tried += 1
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        if owner is Tensor:
                            found = getattr(jet(), name.rpartition(".")[2])
                            result = found(*[jet()] * (count - 1)) if callable(found) else None
                        else:
                            result = function(*[jet()] * count)
                    except Exception as error:
                        refused += isinstance(error, UnsupportedOperator)
                        continue
                answered = name.rpartition(".")[2] in jet_module._OF_THE_VALUE | {
                    *("requires_grad_", "is_tensor", "is_storage", "dim", "get_default_dtype"),
                    *("is_grad_enabled", "typename", "set_grad_enabled"),
                }
                assert answered or result is None, f"{name} gave {type(result)} in silence"
    assert tried > 1500
    assert refused > 800


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="approximate='cubic'"):
        F.gelu(jet(), approximate="cubic")
    with pytest.raises(ValueError, match="is_causal"):
        F.scaled_dot_product_attention(jet(), jet(), jet(), W, is_causal=True)
    with pytest.raises(ValueError, match="at most 2"):
        jet()[None].t()


def test_registered_rule_is_used_and_replaced() -> None:
    def times(factor: float) -> Callable[[Jet], Jet]:
        def rule(x: Jet) -> Jet:
            v = x.parts[0]
            return chain(x.parts, factor * torch.special.i0(v), factor * torch.special.i1(v), None)

        return rule

    x = torch.sin(W)
    one = Jet(torch.stack([x, P]))
    for factor in (1.0, 2.0):
        register_rule(torch.special.i0e)(times(factor))
        found: Any = torch.special.i0e(one)  # type: ignore[arg-type]
        expected = torch.stack([torch.special.i0(x), torch.special.i1(x) * P]) * factor
        torch.testing.assert_close(found.parts, expected)
    del RULES[torch.special.i0e]
    with pytest.raises(TypeError, match="callable"):
        register_rule("i0")


def test_the_example_of_register_rule_runs() -> None:
    before, methods = dict(RULES), set(vars(Jet))
    (example,) = doctest.DocTestFinder().find(register.register_rule, "register_rule", globs={})
    results = doctest.DocTestRunner().run(example)
    assert results.attempted >= 8
    assert results.failed == 0
    RULES.clear()
    RULES.update(before)
    for name in set(vars(Jet)) - methods:
        delattr(Jet, name)


# --- the jet as a tensor --------------------------------------------------------------------------


def test_comparisons_and_attributes_are_those_of_the_value() -> None:
    x = torch.sin(W)
    one: Any = Jet(torch.stack([x, W, W, P]))
    assert torch.equal(one > 0.1, x > 0.1)
    assert torch.equal(torch.le(W, one), x >= W)
    assert torch.equal(W >= one, x <= W)  # noqa: SIM300 (the tensor on the left)
    assert torch.equal(torch.isfinite(one), torch.isfinite(x))
    assert torch.equal(one == x[0, 0], x == x[0, 0])  # and not the identity of objects
    assert torch.equal(one != one, x != x)
    assert one != None  # noqa: E711
    assert (one.shape, one.ndim, one.dim(), one.size(1), len(one)) == ((3, 4), 2, 2, 4, 3)
    assert (one.size(), one.stride(), one.is_contiguous()) == (x.size(), x.stride(), True)
    assert (one.dtype, one.device, one.numel()) == (x.dtype, x.device, 12)
    assert (one.is_cuda, one.layout, one.is_leaf, one.itemsize) == (False, x.layout, True, 8)
    assert bool(one[0, 0] < 0)
    assert "(3, 4)" in repr(one)
    assert f"{one[0, 0]:.3f} {one}" == f"{x[0, 0]:.3f} {one!r}"
    assert torch.equal(one.T.mT.H.mH.T.parts, one.parts.permute(0, 2, 1))
    assert torch.equal(sum(list(one)).parts, one.parts.sum(1))
    assert torch.equal(copy.copy(one).parts, one.parts)
    assert {one: 1}[one] == 1


def test_detach_keeps_derivatives_and_cuts_the_graph() -> None:
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    for cut in (lambda y: y.detach(), lambda y: y.data, lambda y: y.detach_(), torch.detach):
        product = cut(jet() * weight)
        assert torch.equal(product.parts, torch.stack([2 * W, 2 * P]))
        assert not product.parts.requires_grad
    with torch.no_grad():
        assert torch.equal((jet() * weight).parts[1], 2 * P)
    assert jet().requires_grad_().requires_grad


def test_what_is_written_into_a_view_is_seen_in_the_whole() -> None:
    views: list[Callable[[Any], Any]] = [
        lambda y: y[:, 1:3],
        lambda y: y.narrow(1, 0, 2),
        lambda y: y.select(0, 1),
        lambda y: y.diagonal(),
        lambda y: y.view(2, 6).t(),
        lambda y: y.unfold(1, 2, 2),
        lambda y: y.movedim(0, 1)[:2],
        lambda y: y.unflatten(1, (2, 2)).adjoint(),
        lambda y: y.chunk(2, 1)[1],
        lambda y: y.tensor_split(2)[0],
        lambda y: y.hsplit([1])[1],
        lambda y: y.unbind(1)[3],
        lambda y: y.expand(3, 4).ravel(),
    ]
    for view in views:
        plain = W.clone()
        view(plain).mul_(3.0).add_(1.0)
        factor = (plain - 1) / W
        for one in (jet().clone(), Jet.of([W.clone(), P.clone()])):
            with torch.no_grad():
                view(one).mul_(3.0).add_(1.0)
            assert torch.equal(one.parts[0], plain)
            torch.testing.assert_close(one.parts[1], torch.where(plain == W, 1.0, factor) * P)


def test_powers_and_sums_that_change_nothing_are_copies() -> None:
    one = jet()
    for y in (one**1, torch.sum(one, ()), one.to(torch.float32).to(torch.float64), one.clone()):
        with torch.no_grad():
            y.zero_() if y.dim() else None
    assert torch.equal(one.parts, torch.stack([W, P]))
    assert one.to(torch.float64).parts is one.parts


def test_in_place_on_a_tensor_of_lower_rank_broadcasts_along_the_right_axes() -> None:
    """[4] into [4, 4] with 4 components: the components are no axis to broadcast along."""
    line: Any = Jet(torch.randn(4, 4))
    for write in (lambda y: y.copy_(line), lambda y: y.fill_(0.0).add_(line)):
        with torch.no_grad():
            found = write(Jet(torch.zeros(4, 4, 4)))
        assert torch.equal(found.parts, line.parts[:, None].expand(4, 4, 4))
