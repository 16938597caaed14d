"""Times calls by interleaved repetitions, and measures their peak memory."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

# A measurement of a short call repeats it until it lasts this long, in seconds.
LEAST_SECONDS = 0.01
_MIB = 2.0**20


def wait(device: str) -> None:
    """Wait until the device has finished all its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def processor_time(device: str) -> bool:
    """Whether `interleaved` counts processor seconds, which for one thread do not depend on other load."""
    return device == "cpu" and torch.get_num_threads() == 1


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    repetitions: int,
    device: str,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, list[float]]:
    """Seconds per call, `repetitions` of each: every round times each call once, in turn.

    Changing load then affects all calls alike. Each is called once before, as a warm-up.
    """
    clock = time.process_time if processor_time(device) else time.perf_counter
    loops = {}
    for name, call in calls.items():
        call()
        seconds = _seconds(call, 1, device, clock)
        loops[name] = max(1, int(LEAST_SECONDS / max(seconds, 1e-9)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repetitions):
        progress(f"timing, round {i + 1} of {repetitions}")
        for name, call in calls.items():
            found[name].append(_seconds(call, loops[name], device, clock))
    return found


def _seconds(call: Callable[[], Any], loops: int, device: str, clock: Callable[[], float]) -> float:
    wait(device)
    began = clock()
    for _ in range(loops):
        call()
    wait(device)
    return (clock() - began) / loops


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The quarter, half and three-quarter points."""
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def peak_mib(call: Callable[[], Any], device: str) -> float:
    """Peak memory of `call` in MiB, in addition to what was allocated before it.

    On the CPU by the events of the allocator, which code compiled by torch uses, too; on a GPU by
    torch's own counter.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / _MIB
    activities = [torch.profiler.ProfilerActivity.CPU]
    with _quiet(), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / _MIB


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard standard error, to which some builds of the profiler write two lines per run."""
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
