"""Cost and error of exact derivatives, next to torch.func.jvp, as `benchmark.py derivatives` measures."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.derivatives.cost import Cost, cost
from benchmarks.derivatives.methods import (
    FIRST,
    FIRST_BY_TORCH,
    FORWARD,
    NESTED,
    NESTED_STEP,
    OURS,
    SECOND,
    Calls,
    compile_provider,
    products,
)
from benchmarks.derivatives.networks import NETWORKS, Subject
from benchmarks.derivatives.providers import Provider, ours_first, ours_full
from benchmarks.gpu_check.rows import Bench, Row
from benchmarks.timing import interleaved, peak_mib, quartiles
from meanflow_tune.models import DiT, UNet

# For `--device cpu`: every call is made, none takes long.
SMALL = {
    "dit-b": Subject(DiT(width=16, depth=1, heads=2, patch=2), (1, 4, 4), 4, "width 16, 4 tokens"),
    "unet-cifar": Subject(UNet(width=8, groups=4, heads=2), (1, 4, 4), 4, "width 8 and 16, 4x4"),
}
_BY_TORCH = {
    "D u: ours": "D u: torch.func.jvp",
    OURS: NESTED,
    FIRST: FIRST_BY_TORCH,
    SECOND: NESTED_STEP,
}


def subject(name: str, bench: Bench) -> Subject:
    """The network `name`, small on a processor."""
    return SMALL[name] if bench.small else NETWORKS[name]


def dit(bench: Bench) -> None:
    """DiT-B/2 on latents of ImageNet-256."""
    _uncompiled("dit-b", bench)


def unet(bench: Bench) -> None:
    """A U-Net on CIFAR-10's images."""
    _uncompiled("unet-cifar", bench)


def _uncompiled(name: str, bench: Bench) -> None:
    for precision in bench.precisions:
        bench.attempt(Row("all methods", name, precision), partial(_table, name, precision, bench))


def _table(name: str, precision: str, bench: Bench) -> None:
    of = subject(name, bench)
    found = cost(
        name,
        of,
        device=bench.device,
        precision=precision,
        size=of.batch,
        repetitions=2 if bench.small else 5,
        compiled=False,
        progress=lambda line: bench.progress(f"{name}, {precision}: {line}"),
    )
    for row in rows_of(found, precision):
        bench.emit(row)


def rows_of(found: Cost, precision: str) -> list[Row]:
    """The lines of one network, without those of the compiler, which has a stage of its own."""
    medians = {row.name: row.units[1] for row in found.rows if row.units is not None}
    rows = []
    for row in found.rows:
        if "compiled" in row.name:
            continue
        other = _BY_TORCH.get(row.name, "")
        against = (
            medians[row.name] / medians[other] if {row.name, other} <= medians.keys() else None
        )
        rows.append(
            Row(
                f"{row.name}{' WRONG' if row.wrong else ''}",
                found.network,
                precision,
                forwards=medians.get(row.name),
                milliseconds=row.milliseconds,
                mib=row.peak_mib,
                error=max(row.errors.values(), default=None),
                against_jvp=against,
                note=row.note,
                failed=row.units is None and "torch.func" not in row.name,
            )
        )
    return rows


def compiled(bench: Bench) -> None:
    """Derivatives and steps with a compiled jet; the most useful first, since compiling takes minutes."""
    if bench.small:
        _both(("dit-b",), ("float32",), bench)
    else:
        _both(("dit-b", "unet-cifar"), tuple(reversed(bench.precisions)), bench)


def _both(names: tuple[str, ...], precisions: tuple[str, ...], bench: Bench) -> None:
    for precision in precisions:
        for name in names:
            for provider, label in ((ours_first, "D u"), (ours_full, "all four")):
                row = Row(f"{label}: ours, compiled", name, precision)
                bench.progress(f"compiling {label}, {name}, {precision}")
                bench.attempt(row, partial(_compiled, row, provider, bench))


def _compiled(row: Row, provider: Provider, bench: Bench) -> None:
    torch.compiler.reset()
    of = subject(row.network, bench)
    with products(row.precision):
        calls = Calls(of, of.batch, bench.device, row.precision)
        fast = compile_provider(provider, calls)
        if fast.provider is None:
            bench.emit(Row(row.case, row.network, row.precision, note=fast.note, failed=True))
            return
        eager, quick = (
            partial(calls.derivatives, provider),
            partial(calls.derivatives, fast.provider),
        )
        step = calls.first_order_step if provider is ours_first else calls.second_order_step
        label = FIRST if provider is ours_first else SECOND
        timed: dict[str, Callable[[], Any]] = {
            FORWARD: calls.forward,
            "eager": eager,
            row.case: quick,
            f"{label}, compiled jet": partial(step, fast.provider),
        }
        seconds = interleaved(timed, 2 if bench.small else 5, bench.device)
        medians = {name: quartiles(values)[1] for name, values in seconds.items()}
        expected, found = eager(), quick()
        error = max(
            float((found[name] - value).abs().max() / value.abs().max())
            for name, value in expected.items()
        )
        for name in list(timed)[2:]:
            bench.emit(
                Row(
                    name,
                    row.network,
                    row.precision,
                    forwards=medians[name] / medians[FORWARD],
                    milliseconds=1e3 * medians[name],
                    mib=peak_mib(timed[name], bench.device),
                    error=error if name == row.case else None,
                    note=f"{medians['eager'] / medians[name]:.2f} times as fast as eager; error against eager"
                    if name == row.case
                    else "",
                )
            )
