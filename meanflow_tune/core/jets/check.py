"""Compares derivative passes with plain evaluations, once per network and way through its code.

A network may treat a jet unlike a tensor although every operator has a rule, because
`isinstance(x, torch.Tensor)` is False for a jet.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from meanflow_tune.core.jets.callable_key import Checked, Key, modules_of, unique_key
from meanflow_tune.core.jets.dropout import restart
from meanflow_tune.core.jets.jet import Jet, value_of

_CHECKED = Checked()


@dataclass(frozen=True)
class FirstPass:
    """The first pass through a network, with the states of the random generators before it."""

    key: Key | None
    drawn: Tensor
    drawn_on_device: Tensor | None

    @classmethod
    def of(
        cls, model: Callable[..., Any], inputs: Sequence[Any], named: Mapping[str, Any]
    ) -> "FirstPass | None":
        """None where this model was checked for inputs and settings like these.

        inputs: x, t and s, tensors or jets. A branch of a network may depend on all of its shapes but the
        number of rows, of which only 0, 1 and more are told apart: an objective has another number at
        every step.
        """
        device = value_of(inputs[0]).device
        circumstances = (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type),
            *map(_described, inputs),
            *((name, _described(named[name])) for name in sorted(named)),
        )
        key = unique_key(model, circumstances)
        if key is not None and key in _CHECKED:
            return None
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

        It draws the same random numbers, and leaves the generators and the buffers as they were. It
        records gradients if the pass did, for a network may branch on that.
        """
        devices = [] if self.drawn_on_device is None else [u.device]
        with torch.random.fork_rng(devices), _nothing_saved(), buffers_kept(model):
            torch.set_rng_state(self.drawn)
            if self.drawn_on_device is not None:
                torch.cuda.set_rng_state(self.drawn_on_device, u.device)
            restart()
            plain = model(*(x.detach().clone() for x in inputs), **named)
        fault = difference([u], [plain])
        if fault is not None:
            raise RuntimeError(
                f"the network gives another value in the derivative pass than without it ({fault}). It may "
                "ask isinstance(x, torch.Tensor) or torch.is_tensor(x), which a jet is not: ask for "
                "x.shape or x.dtype; or change from call to call, as spectral_norm does in training "
                "mode: call eval()"
            )
        if self.key is not None:
            _CHECKED.add(self.key)


@contextmanager
def buffers_kept(model: Callable[..., Any]) -> Iterator[None]:
    """The buffers of all modules that `model` reaches, such as running statistics, are not changed."""
    kept: list[tuple[nn.Module, str, Tensor]] = []
    copies: dict[int, Tensor] = {}
    for module in modules_of(model):
        for name, buffer in module.named_buffers(recurse=False):
            kept.append((module, name, buffer))
            copies[id(buffer)] = buffer.detach().clone()
    for module, name, buffer in kept:
        module._buffers[name] = copies[id(buffer)]
    try:
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer


@contextmanager
def _nothing_saved() -> Iterator[None]:
    """No memory for a backward pass that never comes."""
    with ExitStack() as stack:
        with suppress(RuntimeError):  # torch.func does not allow it
            stack.enter_context(saved_tensors_hooks(lambda saved: None, lambda packed: packed))
        yield


def _described(x: Any) -> Any:
    """What a network may branch on: of integers and texts the value, of other objects the type."""
    if isinstance(x, Jet | Tensor):
        value = value_of(x)
        rows = min(value.shape[0], 2) if value.dim() else 0
        components = x.count if isinstance(x, Jet) else 1
        return components, rows, tuple(value.shape[1:]), value.dtype, value.device
    if x is None or isinstance(x, bool | int | str | torch.dtype | torch.device):
        return x
    if isinstance(x, list | tuple):
        return type(x), *map(_described, x)
    if isinstance(x, dict):
        return tuple((str(key), _described(value)) for key, value in x.items())
    return type(x)


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
