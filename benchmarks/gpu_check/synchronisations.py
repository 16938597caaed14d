"""Waits for the GPU in a training step, by the line that causes them."""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_check.derivatives import SMALL, subject
from benchmarks.gpu_check.rows import Bench, Row
from benchmarks.gpu_check.training import LOSSES, WAYS, config_of, start, step

# Operators whose result the processor reads, or whose shape depends on numbers.
_READS = frozenset(
    {
        *("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2"),
        *("unique_dim", "unique_consecutive", "repeat_interleave.Tensor", "item", "bincount"),
    }
)
_STEPS = 10
_TINY = "unet, tiny"


@contextmanager
def counted(device: str) -> Iterator[Counter[str]]:
    """Counts waits inside, by `file:line`.

    On a GPU those that torch reports (`torch.cuda.set_sync_debug_mode`). On a processor, where nothing waits,
    the operators whose result is read there, or has a shape that depends on numbers: those that choose rows
    by numbers in the processor's memory are among them, and make no GPU wait.
    """
    found: Counter[str] = Counter()
    if device == "cpu":
        with _Reads(found):
            yield found
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in caught:
        if "synchronizing CUDA operation" in str(warning.message):
            found[f"{_short(warning.filename)}:{warning.lineno}"] += 1


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        masked = func.overloadpacket is torch.ops.aten.index and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if masked or func.overloadpacket.__name__ in _READS:
            self.found[_caller()] += 1
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    """The innermost line of this package or its callers."""
    frame: Any = sys._getframe(2)
    while frame.f_back is not None and "torch/" in frame.f_code.co_filename.replace("\\", "/"):
        frame = frame.f_back
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"


def _short(filename: str) -> str:
    return "/".join(filename.replace("\\", "/").split("/")[-2:])


def synchronisations(bench: Bench) -> None:
    """Of the usual steps on large networks and of every other way on a small one; none is to wait."""
    cases = [(kind, "dit-b") for kind in LOSSES] + [(way, "unet-cifar") for way in WAYS]
    for way, name in cases:
        row = Row(f"{way} step", name if way in LOSSES else _TINY, "float32")
        bench.progress(f"{row.case}, {row.network}")
        bench.attempt(row, partial(_count, row, way, bench))


def _count(row: Row, way: str, bench: Bench) -> None:
    of = SMALL["unet-cifar"] if row.network == _TINY else subject(row.network, bench)
    settings = {"losses": LOSSES["second-order"], **WAYS[way]}
    # A group of one row has a check of its own: 32 rows make larger ones.
    run = start(config_of(of, batch=32, **settings), of, bench.device)
    for _ in range(2):  # the first ones check the network's derivatives, and fill caches
        step(run)
    with counted(bench.device) as found:
        for _ in range(_STEPS):
            step(run)
    places = ", ".join(f"{place} {count / _STEPS:g}" for place, count in found.most_common(8))
    count = found.total() / _STEPS
    run.settle()
    waits = bench.device != "cpu" and count > 0
    bench.emit(Row(row.case, row.network, row.precision, count=count, note=places, failed=waits))
