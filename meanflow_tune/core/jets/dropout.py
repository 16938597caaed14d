"""Dropout in training: one set of masks for all passes of a step, or none in the derivative pass."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from meanflow_tune.core.jets.errors import UnsupportedOperator
from meanflow_tune.core.jets.jet import value_of
from meanflow_tune.core.jets.rules.special import composed

_ACTIVE: list["_Masked"] = []


class DropoutMasks:
    """The masks of one training step, the same in the plain pass and in the derivative passes.

    Whether the n-th dropout of a network keeps an element is a function of (seed, n, row of the sample,
    element). So torch's generators, what ran before, other rows and the device have no part in it:

    >>> import torch
    >>> from torch import nn
    >>> from meanflow_tune.core.jets import DropoutMasks, velocity_jet
    >>> layers = nn.Sequential(nn.Linear(2, 64), nn.Dropout(0.2), nn.Tanh(), nn.Linear(64, 2))
    >>> network = lambda x, t, s: layers(x) * (s - t)[:, None]
    >>> x, t, s = torch.randn(8, 2), torch.zeros(8), torch.ones(8)
    >>> masks, rows = DropoutMasks(seed=5, batch=8), torch.tensor([1, 4, 6])
    >>> with masks.of():
    ...     u = network(x, t, s)
    >>> with masks.of(rows), torch.no_grad():
    ...     jet = velocity_jet(network, x[rows], t[rows], s[rows], x[rows])
    >>> torch.allclose(jet.u, u[rows], atol=1e-6)
    True

    A process that has a part of a global batch names its rows of that batch; `batch` serves of() alone.
    One `with` surrounds one evaluation of the network. Samples must lie on the first axis of what a dropout
    gets, or be its outer part, as in [B · heads, N, N].
    """

    def __init__(self, seed: int, batch: int) -> None:
        self.seed, self.batch = seed, batch

    @contextmanager
    def of(self, rows: Tensor | None = None) -> Iterator[None]:
        """The network is evaluated for `rows` int64 [R] of the batch, None for all of it, in this order."""
        with _surrounding(_Masked(lambda n, x, p, whole: self._mask(n, x, p, whole, rows))):
            yield

    def _mask(self, n: int, x: Tensor, p: float, whole: bool, rows: Tensor | None) -> Tensor:
        """1 / (1 - p) where an element is kept, else 0; `whole` channels [R, C, 1, ...] or elements."""
        count = self.batch if rows is None else len(rows)
        if x.dim() == 0 or count == 0 or x.shape[0] % count:
            raise ValueError(
                f"dropout got {tuple(x.shape)}, but the pass has {count} samples, which must be on its "
                "first axis; give DropoutMasks the size of the batch, and of() the rows of the pass"
            )
        shape = (x.shape[0] // count, *x.shape[1:])
        if whole:
            shape = (*shape[:2], *[1] * (len(shape) - 2))
        row = torch.arange(count, device=x.device) if rows is None else rows.to(x.device)
        words = _words(self.seed, n, row, math.prod(shape))
        kept = (words >= round(p * 2**_BITS)).reshape(x.shape[0], *shape[1:])
        scaled: Tensor = kept.to(x.dtype)
        if p < 1:
            scaled = scaled / (1 - p)
        return scaled


_BITS = 31


def _words(seed: int, n: int, rows: Tensor, count: int) -> Tensor:
    """Independent words of 31 random bits, int64 [R, count], each a function of (seed, n, row, column).

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a stream for each row, which the others start. Its words
    are integers of 64 bits that wrap around, so that all devices agree.
    """
    key = _mixed(torch.tensor([seed, n]) * _STEP + 1).tolist()
    streams = _mixed((rows.unsqueeze(1) + key[0]) * _STEP + key[1])
    columns = torch.arange(1, count + 1, device=rows.device) * _STEP
    words: Tensor = (_mixed(streams + columns) >> (64 - _BITS)) & (2**_BITS - 1)
    return words


def _mixed(words: Tensor) -> Tensor:
    """The output function of SplitMix64."""
    words = (words ^ _shifted(words, 30)) * -0x40A7B892E31B1A47
    words = (words ^ _shifted(words, 27)) * -0x6B2FB644ECCEEE15
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """To the right, with zeros for the sign."""
    shifted: Tensor = (words >> bits) & ((1 << (64 - bits)) - 1)
    return shifted


_STEP = -0x61C8864680B583EB  # the golden ratio of 2^64, 0x9E3779B97F4A7C15 as a signed number


@contextmanager
def without_dropout() -> Iterator[None]:
    """Dropout does nothing, as in eval mode, whatever the mode of the modules: for targets without it."""
    with _surrounding(_Masked(None)):
        yield


def restart() -> None:
    """The next dropout is the first of an evaluation."""
    for each in _ACTIVE:
        each.count = 0


@contextmanager
def _surrounding(mode: "_Masked") -> Iterator[None]:
    _ACTIVE.append(mode)
    try:
        with mode:
            yield
    finally:
        _ACTIVE.remove(mode)


_ELEMENTS = (F.dropout, torch.dropout, torch.dropout_)
_CHANNELS = (
    *(F.dropout1d, F.dropout2d, F.dropout3d),
    *(torch.feature_dropout, torch.feature_dropout_),
)
_OTHERS = (F.alpha_dropout, F.feature_alpha_dropout, torch.alpha_dropout, torch.alpha_dropout_)


class _Masked(TorchFunctionMode):
    """Takes the place of torch's dropouts, of tensors and jets alike."""

    def __init__(self, mask: Callable[[int, Tensor, float, bool], Tensor] | None) -> None:
        super().__init__()
        self.mask, self.count = mask, 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func in _ELEMENTS or func in _CHANNELS or func in _OTHERS:
            return self._dropped(func, *args, **named)
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **named)
        if func is F.multi_head_attention_forward:
            with self:  # which is off in here, for the dropouts inside
                return _MULTIHEAD(*args, **named)
        return func(*args, **named)

    def _dropped(
        self,
        func: Any,
        input: Any,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
        train: bool = True,
    ) -> Any:
        if not (training and train and p > 0) or self.mask is None:
            return input
        if func in _OTHERS or torch.compiler.is_compiling() or _checkpointed():
            raise UnsupportedOperator(
                f"{func.__name__} with masks of a step"
                + ("" if func in _OTHERS else " in compiled or checkpointed code"),
                "use F.dropout, uncompiled and without checkpointing, or without_dropout()",
            )
        value = value_of(input)
        mask = self.mask(self.count, value, p, func in _CHANNELS)
        self.count += 1
        return input.mul_(mask) if inplace or func.__name__.endswith("_") else input * mask

    def _attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **named: Any,
    ) -> Any:
        """Its weights are attention to unit vectors; then their dropout, and their product with `value`."""
        attend = F.scaled_dot_product_attention
        if not dropout_p or self.mask is None:
            return attend(query, key, value, attn_mask, 0.0, is_causal, **named)
        sources = key.shape[-2]
        unit = torch.eye(sources, dtype=key.dtype, device=key.device)
        unit = unit.expand(*key.shape[:-2], sources, sources)
        weights = attend(query, key, unit, attn_mask, 0.0, is_causal, **named)
        if named.get("enable_gqa"):
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        return torch.matmul(self._dropped(F.dropout, weights, dropout_p), value)


_MULTIHEAD = composed(F.multi_head_attention_forward)


def _checkpointed() -> bool:
    """Whether a checkpoint would call this again in the backward pass, outside of the masks."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is not None and "checkpoint" in getattr(hooks[0], "__qualname__", "")
