"""What is timed: a plain forward, derivatives and training steps, by each provider."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.derivatives.networks import Batch, Subject
from benchmarks.derivatives.providers import (
    Components,
    Provider,
    first_way,
    func_first,
    func_nested,
    ours_first,
    ours_full,
    reason,
)
from meanflow_tune.core.types import expand_as

FORWARD = "forward"
NESTED = "all four: nested torch.func.jvp"
OURS = "all four: ours"
FIRST = "first-order step: ours"
FIRST_BY_TORCH = "first-order step: torch.func.jvp"
FIRST_IN_ONE_PASS = "first-order step: torch.func.jvp, u from it too"
NESTED_STEP = "second-order step: nested torch.func.jvp"
SECOND = "second-order step: ours"
_FAST, _COMPILED = "forward, compiled", ", compiled jet"


@dataclass(frozen=True)
class Method:
    """A call to be timed, or None with the reason in `note` where there is none.

    components: what it computes, where that can be compared.
    """

    name: str
    call: Callable[[], Any] | None
    components: Callable[[], Components] | None = None
    note: str = ""


@dataclass(frozen=True)
class Candidate:
    """A provider with what is to be said about it; None where it does not run."""

    provider: Provider | None
    note: str = ""


_LEFT_OUT = Candidate(None, "left out by --no-compile")


def autocast(precision: str, device: str) -> AbstractContextManager[Any]:
    """float32 and tf32 as they are; bfloat16 by torch.autocast, the parameters staying float32."""
    if precision != "bfloat16":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


@contextmanager
def products(precision: str) -> Iterator[None]:
    """float32 products in TF32 for "tf32" (three digits; convolutions have it by default), else in full."""
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matrices.allow_tf32, convolutions.allow_tf32
    matrices.allow_tf32 = convolutions.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matrices.allow_tf32, convolutions.allow_tf32 = before


class Calls:
    """The calls on one student, one teacher of the same network, and one batch."""

    def __init__(self, subject: Subject, size: int, device: str, precision: str) -> None:
        self.student = subject.build(0, device)
        self.teacher = subject.build(1, device).requires_grad_(False)
        self.batch = Batch.make(subject, size, device)
        self.device, self.precision = device, precision

    def forward(self, model: Callable[..., Tensor] | None = None) -> Tensor:
        """One plain forward without gradients: the unit of time."""
        b = self.batch
        with torch.no_grad(), autocast(self.precision, self.device):
            return (self.student if model is None else model)(b.x, b.t, b.s, b.label)

    def derivatives(self, provider: Provider) -> Components:
        """By `provider`, without gradients unless the provider sets them."""
        b = self.batch
        with torch.no_grad(), autocast(self.precision, self.device):
            return provider(self.student, b.x, b.t, b.s, b.velocity, b.label)

    def flow_matching_step(self) -> None:
        """Forward on the diagonal and backward."""
        b = self.batch
        self.clear()
        with autocast(self.precision, self.device):
            residual = self.student(b.x, b.t, b.t, b.label) - b.velocity
        torch.autograd.backward(residual.square().mean())

    def first_order_step(self, provider: Provider) -> None:
        """Distillation by the backward identity: u = v_t + Δ D u, the right side held fixed."""
        b, gap = self.batch, expand_as(self.batch.s - self.batch.t, self.batch.x)
        self.clear()
        with autocast(self.precision, self.device):
            with torch.no_grad():
                v_t = self._velocity(b.x, b.t)
                found = provider(self.student, b.x, b.t, b.s, v_t, b.label)
                target = v_t + gap * found["d_t"].detach()
            residual = self.student(b.x, b.t, b.s, b.label) - target
        torch.autograd.backward(residual.square().mean())

    def first_order_step_in_one_pass(self, provider: Provider) -> None:
        """The same, as public MeanFlow code has it: u too from the pass that gives D u."""
        b, gap = self.batch, expand_as(self.batch.s - self.batch.t, self.batch.x)
        self.clear()
        with autocast(self.precision, self.device):
            with torch.no_grad():
                v_t = self._velocity(b.x, b.t)
            found = provider(self.student, b.x, b.t, b.s, v_t, b.label)
            residual = found["u"] - (v_t + gap * found["d_t"]).detach()
        torch.autograd.backward(residual.square().mean())

    def second_order_step(self, provider: Provider) -> None:
        """Distillation by (★): u = (v_t + v_s) / 2 - Δ² D ∂_s u / 2, with x_s by the student's jump."""
        b, gap = self.batch, expand_as(self.batch.s - self.batch.t, self.batch.x)
        self.clear()
        with autocast(self.precision, self.device):
            u = self.student(b.x, b.t, b.s, b.label)
            with torch.no_grad():
                v_t = self._velocity(b.x, b.t)
                v_s = self._velocity(b.x + gap * u.detach(), b.s)
                found = provider(self.student, b.x, b.t, b.s, v_t, b.label)
                mixed = found["d_t_d_s"].detach()
                target = 0.5 * (v_t + v_s) - 0.5 * gap.square() * mixed
            residual = u - target
        torch.autograd.backward(residual.square().mean())

    def _velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The teacher's, in the type of x also under autocast: it is a tangent of x."""
        v: Tensor = self.teacher(x, t, t, self.batch.label)
        return v.to(x.dtype)

    def clear(self) -> None:
        """Drop the gradients of the last step."""
        for parameter in self.student.parameters():
            parameter.grad = None


def methods(calls: Calls, compiled: bool) -> list[Method]:
    """All that is measured on one network, in the order of the table; runs most of them once."""
    first, nested = _by_torch(func_first, calls), _by_torch(func_nested, calls)
    passing = _by_torch(func_first, calls, grad=True)
    fast_first = compile_provider(ours_first, calls) if compiled else _LEFT_OUT
    fast_full = compile_provider(ours_full, calls) if compiled else _LEFT_OUT
    first_step, second_step = calls.first_order_step, calls.second_order_step

    def step(name: str, run: Callable[[Provider], None], by: Candidate) -> Method:
        call = None if by.provider is None else partial(run, by.provider)
        return Method(name, call, note=by.note)

    def derivatives(name: str, by: Candidate) -> Method:
        call = None if by.provider is None else partial(calls.derivatives, by.provider)
        return Method(name, call, call, by.note)

    return [
        Method(FORWARD, calls.forward),
        _compiled_forward(calls) if compiled else Method(_FAST, None, note=_LEFT_OUT.note),
        Method("flow-matching step", calls.flow_matching_step),
        derivatives("D u: torch.func.jvp", first),
        derivatives("D u: ours", Candidate(ours_first)),
        derivatives("D u: ours, compiled", fast_first),
        derivatives(NESTED, nested),
        derivatives(OURS, Candidate(ours_full)),
        derivatives("all four: ours, compiled", fast_full),
        step(FIRST_BY_TORCH, first_step, first),
        step(FIRST_IN_ONE_PASS, calls.first_order_step_in_one_pass, passing),
        step(FIRST, first_step, Candidate(ours_first)),
        step(FIRST + _COMPILED, first_step, fast_first),
        step(NESTED_STEP, second_step, nested),
        step(SECOND, second_step, Candidate(ours_full)),
        step(SECOND + _COMPILED, second_step, fast_full),
    ]


def ratios(units: Mapping[str, float]) -> dict[str, float]:
    """Quotients of the medians that are asked about, from those that are there."""
    wanted = {
        "all four by ours / by nested torch.func.jvp": (OURS, NESTED),
        "second-order step / first-order step, ours": (SECOND, FIRST),
        "the same, compiled jets": (SECOND + _COMPILED, FIRST + _COMPILED),
        "first-order step, ours / by torch.func.jvp": (FIRST, FIRST_BY_TORCH),
        "first-order step, ours / by torch.func.jvp with u from it": (FIRST, FIRST_IN_ONE_PASS),
    }
    return {
        name: units[above] / units[below]
        for name, (above, below) in wanted.items()
        if above in units and below in units
    }


def _by_torch(provider: Provider, calls: Calls, grad: bool = False) -> Candidate:
    """`provider` in the first way in which it runs, and what the ways before that raised."""

    def once() -> Components:
        b = calls.batch
        with autocast(calls.precision, calls.device):
            return provider(calls.student, b.x, b.t, b.s, b.velocity, b.label)

    way, refusals = first_way(once, grad)
    if way is None:
        return Candidate(None, f"raises {refusals}")

    def run(
        model: nn.Module, x: Tensor, t: Tensor, s: Tensor, v: Tensor, label: Tensor
    ) -> Components:
        with way.entered():
            return provider(model, x, t, s, v, label)

    return Candidate(run, f"raises {refusals}; measured {way}" if refusals else "")


def compile_provider(provider: Provider, calls: Calls) -> Candidate:
    """`provider` compiled as one graph, or why that is not to be had."""
    fast: Provider = torch.compile(provider, fullgraph=True, dynamic=False)
    try:
        calls.derivatives(fast)
    except Exception as error:  # the compiler has no class of errors of its own
        return Candidate(None, f"not available: {reason(error)}")
    return Candidate(fast)


def _compiled_forward(calls: Calls) -> Method:
    fast = torch.compile(calls.student, fullgraph=True, dynamic=False)
    try:
        calls.forward(fast)
    except Exception as error:
        return Method(_FAST, None, note=f"not available: {reason(error)}")
    return Method(_FAST, partial(calls.forward, fast))
