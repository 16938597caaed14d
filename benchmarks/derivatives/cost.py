"""Time, memory and error of every method for the derivatives, on one network."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from benchmarks.derivatives.accuracy import errors_of, reference
from benchmarks.derivatives.methods import (
    FORWARD,
    NESTED,
    NESTED_STEP,
    OURS,
    Calls,
    methods,
    products,
    ratios,
)
from benchmarks.derivatives.networks import Subject
from benchmarks.timing import interleaved, peak_mib, processor_time, quartiles

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One line of a table of costs.

    units: quarter, half and three-quarter points of the time over the median of a plain forward;
    milliseconds: processor time on one CPU thread, else wall-clock time;
    errors: largest relative error of each component against float64; None and {} where not run.
    """

    name: str
    units: tuple[float, float, float] | None = None
    milliseconds: float | None = None
    peak_mib: float | None = None
    errors: dict[str, float] = field(default_factory=dict)
    wrong: bool = False
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """All rows of one network, and the ratios of interest."""

    network: str
    note: str
    batch: int
    clock: str
    rows: list[Row]
    ratios: dict[str, float]


def cost(
    name: str,
    subject: Subject,
    *,
    device: str,
    precision: str,
    size: int,
    repetitions: int,
    compiled: bool,
    progress: Progress,
) -> Cost:
    """Time, memory and error of every method on one network."""
    with products(precision):
        return _cost(name, subject, device, precision, size, repetitions, compiled, progress)


def _cost(
    name: str,
    subject: Subject,
    device: str,
    precision: str,
    size: int,
    repetitions: int,
    compiled: bool,
    progress: Progress,
) -> Cost:
    torch.compiler.reset()  # the limit of recompilations is per network
    progress("float64")
    calls = Calls(subject, size, device, precision)
    expected = reference(subject, calls.batch, device)
    progress("compiling" if compiled else "trying every method")
    found = methods(calls, compiled)
    running = {m.name: m.call for m in found if m.call is not None}
    seconds = interleaved(running, repetitions, device, progress)
    unit = quartiles(seconds[FORWARD])[1]
    rows = []
    for method in found:
        if method.call is None:
            rows.append(Row(method.name, note=method.note))
            continue
        progress(f"memory and errors of {method.name}")
        errors = {} if method.components is None else errors_of(method.components(), expected)
        calls.clear()
        low, middle, high = quartiles(seconds[method.name])
        rows.append(
            Row(
                method.name,
                units=(low / unit, middle / unit, high / unit),
                milliseconds=1e3 * middle,
                peak_mib=peak_mib(method.call, device),
                errors=errors,
                note=method.note,
            )
        )
    rows = mark_wrong(rows)
    medians = {row.name: row.units[1] for row in rows if row.units is not None}
    clock = "processor time" if processor_time(device) else "wall time"
    return Cost(name, subject.note, size, clock, rows, ratios(medians))


def mark_wrong(rows: list[Row]) -> list[Row]:
    """The same rows, marked wrong where an error is beyond rounding: 20 times ours, and over 1e-3.

    A training step is as wrong as the derivatives that it uses.
    """
    ours = next((row.errors for row in rows if row.name == OURS), {})
    wrong = {
        row.name for row in rows if any(e > max(1e-3, 20 * ours[c]) for c, e in row.errors.items())
    }
    if NESTED in wrong:
        wrong.add(NESTED_STEP)
    return [replace(row, wrong=row.name in wrong) for row in rows]
