"""The passes: (u, ∂_s u, D u, D ∂_s u) of a network, or u and one directional derivative."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from meanflow_tune.core.jets.callable_key import Checked, unique_key
from meanflow_tune.core.jets.check import FirstPass
from meanflow_tune.core.jets.dropout import restart
from meanflow_tune.core.jets.einops_backend import register_with_einops
from meanflow_tune.core.jets.errors import WritesIntoConstant, recording
from meanflow_tune.core.jets.jet import Jet, converted, value_of
from meanflow_tune.core.jets.table import SWAPPED
from meanflow_tune.core.types import VelocityJet


@dataclass(frozen=True)
class FirstOrderJet:
    """u(x_t, t, s) and its derivative along one direction (dx, dt, ds), both [B, *D]."""

    u: Tensor
    derivative: Tensor


def velocity_jet(
    model: Callable[..., Any], x: Tensor, t: Tensor, s: Tensor, velocity: Tensor, **kwargs: Any
) -> VelocityJet:
    """u = model(x, t, s, **kwargs) with ∂_s u, D u and D ∂_s u, each [B, *D].

    x and velocity (v(x, t), the tangent of D) [B, *D]; t and s [B]; kwargs, such as label=, are
    passed on and have no derivatives. Raises ValueError for shapes that do not fit, and
    UnsupportedOperator where the model uses an operator without a rule.
    """
    _check(x, t, s)
    if velocity is None or velocity.shape != x.shape or velocity.dtype != x.dtype:
        raise ValueError(
            "`velocity` must have the shape and type of `x`, but got "
            f"({_described(velocity)}) and ({_described(x)})"
        )
    zero, none, one = torch.zeros_like(x), torch.zeros_like(t), torch.ones_like(t)
    parts = _evaluate(
        model,
        4,
        (_jet(x, zero, velocity, zero), _jet(t, none, one, none), _jet(s, one, none, none)),
        kwargs,
    )
    return VelocityJet(*parts)


def directional_jet(
    model: Callable[..., Any],
    x: Tensor,
    t: Tensor,
    s: Tensor,
    dx: Tensor | None,
    dt: float | Tensor,
    ds: float | Tensor,
    **kwargs: Any,
) -> FirstOrderJet:
    """u = model(x, t, s, **kwargs) with dx·∂_x u + dt ∂_t u + ds ∂_s u, both [B, *D].

    dx [B, *D], or None for zero; dt and ds numbers or [B]. (v, 1, 0) gives D u and (None, 0, 1)
    gives ∂_s u. An argument whose direction is None or the number 0 costs nothing extra. Raises
    ValueError for shapes that do not fit, and UnsupportedOperator as `velocity_jet` does.
    """
    _check(x, t, s)
    if dx is not None and dx.shape != x.shape:
        raise ValueError(
            f"`dx` must have the shape of `x`, but got ({tuple(dx.shape)=}, {tuple(x.shape)=})"
        )
    x_jet = x if dx is None else _jet(x, dx)
    inputs = (x_jet, _time_jet(t, dt, "dt"), _time_jet(s, ds, "ds"))
    if torch.compiler.is_compiling() or all(isinstance(each, Jet) for each in inputs):
        return FirstOrderJet(*_evaluate(model, 2, inputs, kwargs))
    return FirstOrderJet(*_without_constants(model, inputs, kwargs))


# Networks that write derivatives into an input: each of theirs needs derivatives, were they zero.
_WRITES = Checked()


def _without_constants(
    model: Callable[..., Any], inputs: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Tensor, ...]:
    """As `_evaluate`; where a network writes derivatives into an input that has none, as by
    `x.add_(embedding)`, with derivatives zero for that input, from the start and with the same draws."""
    key = unique_key(model, ()) if len(_WRITES) else None
    if key is None or key not in _WRITES:
        device = value_of(inputs[0]).device
        drawn = torch.get_rng_state()
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        try:
            return _evaluate(model, 2, inputs, kwargs)
        except WritesIntoConstant:
            torch.set_rng_state(drawn)
            if on_device is not None:
                torch.cuda.set_rng_state(on_device, device)
    lifted = [x if isinstance(x, Jet) else _jet(x, torch.zeros_like(x)) for x in inputs]
    parts = _evaluate(model, 2, lifted, kwargs)
    key = unique_key(model, ())
    if key is not None:
        _WRITES.add(key)
    return parts


def _jet(*components: Tensor) -> Jet:
    """A jet of copies, since the network may write into it; apart while code is being compiled."""
    if torch.compiler.is_compiling():
        return Jet.of([part.clone() for part in components])
    return Jet(torch.stack(components))


def _time_jet(time: Tensor, direction: float | Tensor, name: str) -> Tensor | Jet:
    if isinstance(direction, Tensor):
        if direction.shape not in ((), time.shape):
            raise ValueError(
                f"`{name}` must be a number or of shape [B] = {tuple(time.shape)}, "
                f"but got ({tuple(direction.shape)=})"
            )
        return _jet(time, direction.to(time.dtype).expand_as(time))
    return time if direction == 0 else _jet(time, torch.full_like(time, direction))


def _check(x: Tensor, t: Tensor, s: Tensor) -> None:
    for name, each in (("x", x), ("t", t), ("s", s)):
        if not isinstance(each, Tensor):
            raise ValueError(
                f"`{name}` must be a tensor, but got {each!r}; times are [B], one per row of `x`"
            )
    if t.shape != x.shape[:1] or s.shape != x.shape[:1]:
        raise ValueError(
            "`t` and `s` must be of shape [B], one time per row of `x`, but got "
            f"({tuple(x.shape)=}, {tuple(t.shape)=}, {tuple(s.shape)=})"
        )
    if not (x.is_floating_point() and t.is_floating_point() and s.is_floating_point()):
        raise ValueError(
            f"`x`, `t` and `s` must be floating point, but got ({x.dtype=}, {t.dtype=}, {s.dtype=})"
        )


def _described(x: Any) -> str:
    return f"{tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else repr(x)


class _Dispatch(TorchFunctionMode):
    """Hands operators with a jet, or a list or tuple that holds one, to the jet's rules."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        for operand in (*args, *named.values()):
            for each in operand if isinstance(operand, tuple | list) else (operand,):
                if isinstance(each, Jet):
                    swapped = SWAPPED.get(getattr(func, "__name__", ""))
                    if swapped is not None:
                        return swapped(*args, **named)
                    return Jet.__torch_function__(func, types, args, named)
        return func(*args, **named)


def _evaluate(
    model: Callable[..., Any], components: int, inputs: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Tensor, ...]:
    """The components, each [B, *D], in the type of x; those of a constant output are zero."""
    compiling = torch.compiler.is_compiling()
    if not compiling:
        register_with_einops()
    first = None if compiling else FirstPass.of(model, inputs, kwargs)
    watch = torch.is_grad_enabled() and not compiling
    if watch:
        recording.append(True)
    try:
        # The compiler finds a jet among operands but not one in a tuple; a mode sees every operator.
        with _Dispatch() if compiling else nullcontext():
            if not compiling:
                restart()
            u = model(*inputs, **kwargs)
    finally:
        if watch:
            recording.pop()
    if isinstance(u, Tensor):
        u = Jet.of([u, *(torch.zeros_like(u) for _ in range(components - 1))])
    if not isinstance(u, Jet):
        raise TypeError(
            f"the model must return one tensor, but got {type(u).__name__}; wrap it in a function that "
            "returns the velocity alone, such as `lambda x, t, s, **kw: model(x, t, s, **kw).sample` "
            "or `...[0]`"
        )
    if u.dtype.is_complex:
        raise TypeError("the model must return real numbers, but its output is complex")
    u = converted(u, value_of(inputs[0]).dtype)
    if first is not None:
        first.check(model, [value_of(each) for each in inputs], kwargs, u.value)
    return u.components
