"""Errors of the derivative pass, and of finite differences instead of it, against float64."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.derivatives.methods import autocast
from benchmarks.derivatives.networks import Batch, Subject
from benchmarks.derivatives.providers import (
    Components,
    central_differences,
    ours_first,
    ours_full,
    relative_error,
)
from meanflow_tune.core.types import expand_as

Progress = Callable[[str], None]
STEPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# Samples per batch: differences in float64 take 49 forwards.
_FEW = 4


@dataclass(frozen=True)
class Errors:
    """Largest relative error of each component of one network in one precision."""

    network: str
    precision: str
    errors: dict[str, float]


@dataclass(frozen=True)
class Differences:
    """Relative errors of the mixed derivative by finite differences with one step, by kind."""

    step: float
    errors: dict[str, float]


def reference(subject: Subject, batch: Batch, device: str) -> Components:
    """All four components in float64; `precision_errors` compares them with differences."""
    b = batch.to(torch.float64)
    model = subject.build(0, device, torch.float64)
    with torch.no_grad():
        return ours_full(model, b.x, b.t, b.s, b.velocity, b.label)


def errors_of(found: Components, expected: Components) -> dict[str, float]:
    """Relative error of each component in `found`."""
    return {name: relative_error(value, expected[name]) for name, value in found.items()}


def precision_errors(name: str, subject: Subject, device: str, progress: Progress) -> list[Errors]:
    """The eager jet in float64 against differences, in float32 and bfloat16 against float64."""
    progress("float64 against central differences")
    batch = Batch.make(subject, _FEW, device)
    exact = reference(subject, batch, device)
    b = batch.to(torch.float64)
    model = subject.build(0, device, torch.float64)
    differences = central_differences(model, b.x, b.t, b.s, b.velocity, b.label)
    rows = [Errors(name, "float64", errors_of(exact, differences))]
    model = subject.build(0, device)
    for precision in ("float32", "bfloat16"):
        progress(precision)
        with torch.no_grad(), autocast(precision, device):
            found = ours_full(model, batch.x, batch.t, batch.s, batch.velocity, batch.label)
        rows.append(Errors(name, precision, errors_of(found, exact)))
    return rows


def difference_errors(subject: Subject, device: str, progress: Progress) -> list[Differences]:
    """The mixed derivative by finite differences of each step, against float64."""
    batch = Batch.make(subject, _FEW, device)
    exact = reference(subject, batch, device)["d_t_d_s"]
    model = subject.build(0, device)
    rows = []
    for step in STEPS:
        errors = {}
        for precision in ("float32", "bfloat16"):
            progress(f"step {step:g}, {precision}")
            with torch.no_grad(), autocast(precision, device):
                for kind, difference in DIFFERENCES.items():
                    found = difference(model, batch, step)
                    errors[f"{kind}, {precision}"] = relative_error(found, exact)
        rows.append(Differences(step, errors))
    return rows


def _one_sided(model: nn.Module, b: Batch, h: float) -> Tensor:
    """(D u(s) - D u(s - h)) / h with D u exact: of order 1."""
    ends = [ours_first(model, b.x, b.t, s, b.velocity, b.label)["d_t"] for s in (b.s, b.s - h)]
    return (ends[0] - ends[1]) / h


def _four_forwards(model: nn.Module, b: Batch, h: float) -> Tensor:
    """Central in both directions, from plain forwards only: of order 2."""

    def u(along: float, end: float) -> Tensor:
        shift = expand_as(torch.full_like(b.t, along), b.x)
        out: Tensor = model(b.x + shift * b.velocity, b.t + along, b.s + end, b.label)
        return out

    return (u(h, h) - u(h, -h) - u(-h, h) + u(-h, -h)) / (4 * h * h)


DIFFERENCES: Mapping[str, Callable[[nn.Module, Batch, float], Tensor]] = {
    "D u exact": _one_sided,
    "forwards only": _four_forwards,
}
