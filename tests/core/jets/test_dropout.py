"""Dropout in training: the passes of a step have one set of masks, or the derivative pass has none."""

import doctest
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from meanflow_tune.core.jets import (
    DropoutMasks,
    UnsupportedOperator,
    directional_jet,
    dropout,
    velocity_jet,
    without_dropout,
)
from tests.support.jets.networks import batch, central_differences, relative_error

ROWS = torch.tensor([2, 0])


class Network(nn.Module):
    """Dropout of elements, of channels, in place, and of attention weights [B · heads, N, N]."""

    shape = (3, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.channels, self.elements = nn.Dropout2d(0.3), nn.Dropout(0.2, inplace=True)
        self.own = nn.MultiheadAttention(4, 2, dropout=0.25, batch_first=True)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Any = None) -> Tensor:
        h = self.channels(F.silu(self.first(x))) + (t * s)[:, None, None, None]
        tokens = h.flatten(2).transpose(1, 2)
        own = self.own(tokens, tokens, tokens, need_weights=True)[0]
        h = h + F.scaled_dot_product_attention(h, h, h, dropout_p=0.2 * self.training)
        h = h + self.own(tokens, tokens, tokens, need_weights=False)[0].mT.reshape(h.shape)
        h = h + own.mT.reshape(h.shape)
        out: Tensor = self.last(self.elements(torch.tanh(h)))
        return out


def network() -> Network:
    torch.manual_seed(1)
    return Network().double().train()


@pytest.mark.parametrize("rows", [None, ROWS], ids=["all", "rows"])
@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_all_passes_of_a_step_have_the_same_masks(rows: Any, grad: bool) -> None:
    model, masks = network(), DropoutMasks(3, 4)
    x, t, s, v, _ = batch(model.shape)
    with masks.of():
        plain = model(x, t, s)
    some = [y if rows is None else y[rows] for y in (x, t, s, v)]
    torch.rand(5)  # the generators of torch have no part in it
    with masks.of(rows), torch.set_grad_enabled(grad):
        jet = velocity_jet(model, *some)
        along = directional_jet(model, *some, 1.0, 0.0)
    assert relative_error(jet.u, plain if rows is None else plain[rows]) < 1e-12
    assert relative_error(along.derivative, jet.d_t) < 1e-12

    def with_masks(*inputs: Any) -> Tensor:
        with masks.of(rows):
            return model(*inputs)  # type: ignore[no-any-return]

    truth = central_differences(with_masks, *some)
    assert relative_error(jet.d_t_d_s, truth.d_t_d_s) < 1e-6
    assert relative_error(jet.d_t, truth.d_t) < 1e-6


def test_masks_depend_on_the_seed_and_keep_the_mean() -> None:
    ones = torch.ones(2000, 3)
    with DropoutMasks(1, 2000).of():
        one, next_one = F.dropout(ones, 0.2), F.dropout(ones, 0.2)
    with DropoutMasks(1, 2000).of():
        again = F.dropout(ones, 0.2)
    with DropoutMasks(2, 2000).of():
        other = F.dropout(ones, 0.2)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, next_one)
    assert set(one.unique().tolist()) == {0.0, 1.25}
    assert abs(one.mean().item() - 1) < 0.02


def test_a_mask_is_a_function_of_its_row_alone() -> None:
    ones = torch.ones(40, 5, 7)
    with DropoutMasks(1, 40).of():
        whole = F.dropout(ones, 0.5), F.dropout2d(ones[..., None], 0.5)
    rows = torch.tensor([39, 2, 2, 17])
    with DropoutMasks(1, 4).of(rows):
        some = F.dropout(ones[:4], 0.5), F.dropout2d(ones[:4, ..., None], 0.5)
    for all_rows, few in zip(whole, some, strict=True):
        assert torch.equal(all_rows[rows], few)
    assert whole[1].flatten(2).std(-1).max() == 0, "whole channels"
    far = torch.tensor([1, 2**33 + 1, 2**62])
    with DropoutMasks(2**63 - 1, 3).of(far):
        each = F.dropout(torch.ones(3, 64), 0.5)
    assert len(each.unique(dim=0)) == 3


def test_masks_are_independent_of_each_other_and_of_their_place() -> None:
    with DropoutMasks(4, 4000).of():
        layers = [F.dropout(torch.ones(4000, 24), 0.25) > 0 for _ in range(2)]
    for kept in layers:
        assert abs(kept.double().mean().item() - 0.75) < 0.006
        assert (kept.double().mean(0) - 0.75).abs().max() < 0.03
    columns = torch.cat([*layers, layers[0].roll(1, 0)], dim=1).double()
    off_diagonal = torch.corrcoef(columns.T) - torch.eye(columns.shape[1], dtype=torch.double)
    assert off_diagonal.abs().max() < 0.08, "columns, layers and neighbouring rows"
    sums = columns[:, :24].sum(1)
    assert abs(sums.var().item() / (24 * 0.75 * 0.25) - 1) < 0.12


def test_without_dropout_is_eval_mode_for_the_pass_alone() -> None:
    model = network()
    x, t, s, v, _ = batch(model.shape)
    with without_dropout():
        found = velocity_jet(model, x, t, s, v)
    assert model.training
    expected = velocity_jet(model.eval(), x, t, s, v)
    assert torch.equal(found.d_t_d_s, expected.d_t_d_s)

    def attends(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5) * s[:, None, None, None]

    with without_dropout():
        one = velocity_jet(attends, x, t, s, v)
    assert (
        relative_error(one.u, F.scaled_dot_product_attention(x, x, x) * s[:, None, None, None])
        < 1e-12
    )


def test_what_has_no_masks_is_refused() -> None:
    x, masks = torch.ones(4, 3, requires_grad=True), DropoutMasks(0, 4)
    with masks.of(), pytest.raises(UnsupportedOperator, match="alpha_dropout"):
        F.alpha_dropout(x, 0.3, True)
    with masks.of(), pytest.raises(UnsupportedOperator, match="checkpoint"):
        checkpoint(lambda y: F.dropout(y * 2, 0.3), x, use_reentrant=False)
    with masks.of(ROWS), pytest.raises(ValueError, match=r"2 samples.*rows"):
        F.dropout(x[:3], 0.3)
    with pytest.raises(UnsupportedOperator, match=r"DropoutMasks.*without_dropout"):
        velocity_jet(lambda x, t, s: F.dropout(x * s[:, None], 0.3), *batch((3,))[:4])


def test_the_example_runs() -> None:
    (example,) = doctest.DocTestFinder().find(DropoutMasks, "DropoutMasks", globs={})[:1]
    results = doctest.DocTestRunner().run(example)
    assert results.attempted >= 8
    assert results.failed == 0
    assert dropout._ACTIVE == []
