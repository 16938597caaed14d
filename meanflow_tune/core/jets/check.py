"""Compares derivative passes with plain evaluations, once per network and once per compilation.

A network may treat a jet unlike a tensor although every operator has a rule, because
`isinstance(x, torch.Tensor)` is False for a jet.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

_CHECKED: WeakSet[Any] = WeakSet()


@dataclass(frozen=True)
class FirstPass:
    """The first pass through a network, with the states of the random generators before it."""

    key: Any
    drawn: Tensor
    drawn_on_device: Tensor | None

    @classmethod
    def of(cls, model: Callable[..., Any], device: torch.device) -> "FirstPass | None":
        """None where `model` was checked before: by itself, a function by its code, or else by its type."""
        key = getattr(getattr(model, "__func__", model), "__code__", model)
        try:
            if key in _CHECKED:
                return None
            _CHECKED.add(key)
        except TypeError:  # it has no hash, or no weak references
            key = type(model)
            if key in _CHECKED:
                return None
            _CHECKED.add(key)
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(key, torch.get_rng_state(), on_device)

    def check(
        self,
        model: Callable[..., Any],
        inputs: Sequence[Tensor],
        named: Mapping[str, Any],
        u: Tensor,
    ) -> None:
        """Raises RuntimeError where model(*inputs, **named) without derivatives is not `u` [B, *D].

        It draws the same random numbers, and leaves the generators as they were.
        """
        devices = [] if self.drawn_on_device is None else [u.device]
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.set_rng_state(self.drawn)
            if self.drawn_on_device is not None:
                torch.cuda.set_rng_state(self.drawn_on_device, u.device)
            plain = model(*(x.detach().clone() for x in inputs), **named)
        fault = difference([u], [plain])
        if fault is None:
            return
        _CHECKED.discard(self.key)
        raise RuntimeError(
            f"the network gives another value in the derivative pass than without it ({fault}). It may "
            "ask isinstance(x, torch.Tensor) or torch.is_tensor(x), which a jet is not: ask for x.shape "
            "or x.dtype; or change from call to call, as spectral_norm does in training mode: call "
            "eval()"
        )


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> str | None:
    """How tensors differ beyond rounding, in words; None where they do not, or are not finite."""
    whole = max((_largest(y) for y in expected), default=0.0)
    for x, y in zip(found, expected, strict=True):
        if x.shape != y.shape:
            return f"the shapes are {tuple(x.shape)} and {tuple(y.shape)}"
        most = _largest(x.detach().to(y.dtype) - y)
        # Where a component nearly vanishes, its rounding is that of the others.
        scale = max(_largest(y), 1e-3 * whole)
        if most > _tolerance(x) * scale:
            return f"the largest difference is {most:.3g}, the largest value {scale:.3g}"
    return None


def _largest(x: Tensor) -> float:
    return float(x.detach().abs().max()) if x.numel() else 0.0


def _tolerance(x: Tensor) -> float:
    """Tolerated rounding error, relative to the largest value."""
    if x.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled(x.device.type):
        return 0.1
    return 1e-3 if x.dtype == torch.float32 else 1e-7
