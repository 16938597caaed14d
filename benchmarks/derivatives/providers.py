"""The same derivatives by this package, by torch.func and by finite differences, with one signature.

A provider takes (model, x, t, s, v, label) and returns some of u, d_s = ∂_s u, d_t = D u and
d_t_d_s = D ∂_s u by name, each [B, *D].
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanflow_tune.core.jets import directional_jet, velocity_jet
from meanflow_tune.core.types import expand_as

COMPONENTS = ("u", "d_s", "d_t", "d_t_d_s")
Components = dict[str, Tensor]
Provider = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor, Tensor], Components]


def ours_first(
    model: nn.Module, x: Tensor, t: Tensor, s: Tensor, v: Tensor, label: Tensor
) -> Components:
    """u and D u by a jet of two components."""
    jet = directional_jet(model, x, t, s, v, 1.0, 0.0, label=label)
    return {"u": jet.u, "d_t": jet.derivative}


def ours_full(
    model: nn.Module, x: Tensor, t: Tensor, s: Tensor, v: Tensor, label: Tensor
) -> Components:
    """All four by a jet."""
    jet = velocity_jet(model, x, t, s, v, label=label)
    return {"u": jet.u, "d_s": jet.d_s, "d_t": jet.d_t, "d_t_d_s": jet.d_t_d_s}


def func_first(
    model: nn.Module, x: Tensor, t: Tensor, s: Tensor, v: Tensor, label: Tensor
) -> Components:
    """u and D u by torch.func.jvp, as public MeanFlow code has it."""

    def u(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        out: Tensor = model(x, t, s, label)
        return out

    found = jvp(u, (x, t, s), (v, torch.ones_like(t), torch.zeros_like(s)))
    return {"u": found[0], "d_t": found[1]}


def func_nested(
    model: nn.Module, x: Tensor, t: Tensor, s: Tensor, v: Tensor, label: Tensor
) -> Components:
    """All four by torch.func.jvp inside torch.func.jvp."""

    def along(s: Tensor) -> tuple[Tensor, Tensor]:
        found = func_first(model, x, t, s, v, label)
        return found["u"], found["d_t"]

    values, slopes = jvp(along, (s,), (torch.ones_like(s),))[:2]
    return {"u": values[0], "d_s": slopes[0], "d_t": values[1], "d_t_d_s": slopes[1]}


# Weights of f(x + i h) in the first derivative, of order 6 in h.
_STENCIL = ((-3, -1 / 60), (-2, 3 / 20), (-1, -3 / 4), (1, 3 / 4), (2, -3 / 20), (3, 1 / 60))


@torch.no_grad()
def central_differences(
    model: nn.Module,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    v: Tensor,
    label: Tensor,
    *,
    step: float = 1e-3,
) -> Components:
    """All four from 49 plain forwards: independent of every rule. Meant for float64."""

    def u(along: float, end: float) -> Tensor:
        shift = expand_as(torch.full_like(t, along), x)
        out: Tensor = model(x + shift * v, t + along, s + end, label)
        return out

    def slope(f: Callable[[float], Tensor]) -> Tensor:
        terms = [weight / step * f(i * step) for i, weight in _STENCIL]
        return torch.stack(terms).sum(0)

    return {
        "u": u(0.0, 0.0),
        "d_s": slope(lambda end: u(0.0, end)),
        "d_t": slope(lambda along: u(along, 0.0)),
        "d_t_d_s": slope(lambda along: slope(lambda end: u(along, end))),
    }


@dataclass(frozen=True)
class Way:
    """Settings under which torch.func may run where it raises by default."""

    grad: bool
    plain_attention: bool

    def __str__(self) -> str:
        parts = ["in grad mode"] if self.grad else []
        parts += ["with SDPBackend.MATH"] if self.plain_attention else []
        return " ".join(parts) or "as called"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Apply these settings inside the block."""
        with torch.set_grad_enabled(self.grad):
            if not self.plain_attention:
                yield
                return
            with sdpa_kernel(SDPBackend.MATH):
                yield


def first_way(run: Callable[[], object], grad: bool = False) -> tuple[Way | None, str]:
    """The first way in which `run` does not raise, and why the earlier ones did.

    grad: try ways in grad mode only.
    """
    refusals: dict[str, list[str]] = {}
    found = None
    for way in (Way(False, False), Way(False, True), Way(True, False), Way(True, True)):
        if grad and not way.grad:
            continue
        try:
            with way.entered():
                run()
        except (RuntimeError, NotImplementedError) as error:
            refusals.setdefault(reason(error), []).append(str(way))
        else:
            found = way
            break
    return found, ", ".join(f"{' or '.join(ways)} ({why})" for why, ways in refusals.items())


def reason(error: BaseException) -> str:
    """Class and first sentence of an error, for a line of a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    text = lines[0]
    return f"{type(error).__name__}: {text[:150]}{'…' if len(text) > 150 else ''}"


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, in units of the largest expected entry; infinite where not finite."""
    difference = (found.detach().double() - expected).abs().max() / expected.abs().max()
    return float(difference) if torch.isfinite(difference) else float("inf")
