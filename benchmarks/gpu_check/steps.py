"""Images per second of the product's training steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.derivatives.methods import products
from benchmarks.derivatives.networks import Subject
from benchmarks.derivatives.peer import OURS, Size, peer
from benchmarks.gpu_check.derivatives import subject
from benchmarks.gpu_check.rows import Bench, Row
from benchmarks.gpu_check.training import LOSSES, config_of, start, step
from benchmarks.timing import interleaved, peak_mib, quartiles

# Halved until both kinds of steps fit.
_BATCHES = {"unet-cifar": 256, "dit-b": 128}
_WARM_UP = 3
_PEER, _SMALL_PEER = "song-unet", Size(8, (1, 2), 1, (1,), 8, 4)


def steps(bench: Bench) -> None:
    """First- and second-order steps, side by side; uncompiled ones first, since compiling takes minutes."""
    names = ("unet-cifar", "dit-b")
    _each([(name, p, False) for name in names for p in bench.precisions], bench)
    # In the precision of the public code, which sets torch.set_float32_matmul_precision("high").
    usual = "float32" if bench.small else "tf32"
    bench.attempt(Row("first-order step", _PEER, usual), partial(_beside, usual, False, bench))
    if not bench.small:  # the stages `checks` and `compiled` compile there
        _each([(name, "bfloat16", True) for name in names], bench)
        bench.attempt(Row("compiled", _PEER, usual), partial(_beside, usual, True, bench))


def _beside(precision: str, compiled: bool, bench: Bench) -> None:
    """Our first-order step, and one as public code writes it."""
    found = peer(
        device=bench.device,
        precision=precision,
        batch=None,
        repetitions=2 if bench.small else 5,
        compiled=compiled,
        progress=lambda line: bench.progress(f"{_PEER}, {precision}: {line}"),
        size=_SMALL_PEER if bench.small else None,
    )
    for side in found.sides:
        if compiled and "compiled" not in side.name:
            continue
        bench.emit(
            Row(
                f"first-order step: {side.name}",
                _PEER,
                precision,
                milliseconds=None if side.seconds is None else 1e3 * side.seconds[1],
                images_per_second=side.images_per_second,
                mib=side.peak_mib,
                note=side.note or f"batch {found.batch}",
                failed=side.seconds is None and side.name.startswith(OURS),
            )
        )


def _each(cases: list[tuple[str, str, bool]], bench: Bench) -> None:
    for name, precision, compile in cases:
        suffix = ", compiled" if compile else ""
        row = Row(f"steps{suffix}", name, precision)
        bench.progress(f"{name}, {precision}{suffix}")
        bench.attempt(row, partial(_both, row, compile, bench))


def _both(row: Row, compile: bool, bench: Bench) -> None:
    of = subject(row.network, bench)
    batch = of.batch if bench.small else _BATCHES[row.network]
    while True:
        try:
            with products(row.precision):
                _measure(row, compile, batch, of, bench)
            return
        except torch.OutOfMemoryError:
            if batch < 2:
                raise
            batch //= 2
        # Outside of the handler, whose exception holds the tensors of the failed step.
        torch.cuda.empty_cache()
        bench.progress(f"{row.network}, {row.precision}: out of memory; batch {batch}")


def _measure(row: Row, compile: bool, batch: int, of: Subject, bench: Bench) -> None:
    precision = "bfloat16" if row.precision == "bfloat16" else "float32"
    timed: dict[str, Callable[[], Any]] = {}
    for kind, losses in LOSSES.items():
        config = config_of(of, losses, batch, precision=precision, compile=compile)
        run = start(config, of, bench.device)
        call: Callable[[], Any] = partial(step, run)
        for _ in range(_WARM_UP):
            call()
        timed[kind] = call
    seconds = interleaved(timed, 2 if bench.small else 10, bench.device)
    for kind, call in timed.items():
        median = quartiles(seconds[kind])[1]
        bench.emit(
            Row(
                f"{kind} step{', compiled' if compile else ''}",
                row.network,
                row.precision,
                milliseconds=1e3 * median,
                images_per_second=batch / median,
                mib=peak_mib(call, bench.device),
                note=f"batch {batch}",
            )
        )
