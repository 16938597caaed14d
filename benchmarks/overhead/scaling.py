"""`benchmark.py search --slots`: more and more simulated slots, until something saturates."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.overhead.processes import Family
from benchmarks.overhead.roles import DRIVER
from benchmarks.overhead.sides_run import environment

EVERY = 5.0  # seconds between two reports of a slot
SLOTS = (50, 100, 200, 400, 800)
LAG = 1.0  # seconds that a verdict may take, for 99 of 100
DUE = 0.9  # share of the reports that come in time, below which something is saturated
FULL = 0.8  # share of a processor at which a process of one busy thread is called saturated
IDLE = 0.1  # of a processor, below which the machine is
START = 420.0  # seconds beyond the measurement, within which a step must end
# Processes with one busy thread each: they cannot use a second processor.
SINGLE = (DRIVER, "relays", "broker")


@dataclass(frozen=True)
class Step:
    """slots simulated for seconds; verdicts, beats: ascending seconds of waiting; idle: processors, on
    average; by role: busy and waited, shares of a processor used and waited for, and mib of memory.

    note: why there are no figures.
    """

    slots: int
    seconds: float = math.nan
    verdicts: Sequence[float] = ()
    beats: Sequence[float] = ()
    idle: float = math.nan
    load: float = math.nan
    busy: Mapping[str, float] = field(default_factory=dict)
    waited: Mapping[str, float] = field(default_factory=dict)
    mib: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def due(self) -> float:
        """Reports per second of slots that wait for nothing."""
        return self.slots / EVERY

    @property
    def rate(self) -> float:
        """Reports per second that were decided upon."""
        return len(self.verdicts) / self.seconds

    @property
    def saturated(self) -> bool:
        return bool(self.note) or self.rate < DUE * self.due or quantile(self.verdicts, 0.99) > LAG

    @property
    def busiest(self) -> str:
        """The process that will use up its processor first."""
        return max(SINGLE, key=lambda role: self.busy[role])

    @property
    def reach(self) -> float:
        """Slots with which `busiest` would use a whole processor, all else being equal."""
        return self.slots / self.busy[self.busiest]

    def cause(self) -> str:
        """What saturates, in words."""
        if self.note:
            return self.note
        role = self.busiest
        if self.busy[role] >= FULL:
            return f"the {role} fills its processor ({100 * self.busy[role]:.0f} %)"
        if self.idle < IDLE:
            share = 100 * self.waited[role]
            return (
                f"the machine: no processor is idle, and the {role}'s threads waited for one for "
                f"{share:.0f} % of the time"
            )
        return f"none of these processes; the busiest is the {role} ({100 * self.busy[role]:.0f} %)"


def quantile(ascending: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie; nan without any."""
    if not ascending:
        return math.nan
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def climb(
    folder: Path, counts: Sequence[int], seconds: float, progress: Callable[[str], None]
) -> list[Step]:
    """A step for each number of slots, in its own process, up to the first that saturates."""
    found: list[Step] = []
    for slots in counts:
        progress(f"{slots} slots for {seconds:.0f} s, and their start")
        place = folder / f"slots-{slots}"
        place.mkdir(parents=True)
        found.append(step(slots, seconds, place))
        if found[-1].saturated:
            break
    return found


def step(slots: int, seconds: float, folder: Path) -> Step:
    """Measure one number of slots; everything that it starts ends with it."""
    command = [sys.executable, "-m", "benchmarks.overhead.many_slots"]
    with (
        open(folder / "log", "w+b") as log,
        subprocess.Popen(
            [*command, str(slots), str(seconds), str(folder)],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(),
        ) as process,
        Family(process.pid),
    ):
        try:
            printed, _ = process.communicate(timeout=seconds + START)
        except subprocess.TimeoutExpired:
            process.kill()
            return Step(slots, note=f"did not end within {seconds + START:.0f} s")
        if not printed.strip():
            log.seek(0)
            lines = log.read().decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "no word")
            return Step(slots, note=f"broke off: {last[:200]}")
    figures: dict[str, Any] = json.loads(printed)
    return Step(slots, **figures)


def scaling_table(steps: Sequence[Step]) -> str:
    """A line per number of slots; then memory per slot, and what saturates."""
    measured = [one for one in steps if not one.note]
    lines = [
        f"{'':6}{'reports per s':>15}{'verdict: s until decided':>28}{'heartbeat s':>14}"
        f"{'processor, % of one':>27}{'memory, MiB':>22}{'machine':>14}",
        f"{'slots':>6}{'due':>7}{'done':>8}{'median':>10}{'99 %':>9}{'worst':>9}{'99 %':>14}"
        f"{'driver':>9}{'relays':>9}{'broker':>9}{'driver':>8}{'relays':>7}{'broker':>7}"
        f"{'idle':>7}{'load':>7}",
    ]
    lines += [_line(one) for one in measured]
    lines += [f"{one.slots:>6}  {one.note}" for one in steps if one.note]
    if len(measured) > 1:
        few, many = measured[0], measured[-1]
        more = [
            f"{role} {(many.mib[role] - few.mib[role]) / (many.slots - few.slots):.2f}"
            for role in (*SINGLE, "ray")
        ]
        lines.append(f"MiB per slot from {few.slots} to {many.slots} slots: {', '.join(more)}")
    served = [one for one in measured if not one.saturated]  # else work was left undone
    for one in served[-1:]:
        lines.append(
            f"by its processor time at {one.slots} slots, the {one.busiest} would fill one processor at "
            f"about {one.reach:,.0f} slots"
        )
    if steps and steps[-1].saturated:
        lines.append(f"saturated at {steps[-1].slots} slots: {steps[-1].cause()}")
    else:
        lines.append(
            f"not saturated: 99 of 100 verdicts within {LAG:.0f} s, {100 * DUE:.0f} % of reports"
        )
    lines.append(
        f"a slot reports every {EVERY:.0f} s; verdict: from a report until the slot has its decision;\nthe "
        "machine also runs the simulated slots; idle: processors, on average; ray: GCS, raylet and agents"
    )
    return "\n".join(lines)


def _line(one: Step) -> str:
    waits = "".join(
        f"{quantile(one.verdicts, share):>{width}.2f}"
        for share, width in ((0.5, 10), (0.99, 9), (1.0, 9))
    )
    busy = "".join(f"{100 * one.busy[role]:>9.0f}" for role in SINGLE)
    memory = "".join(f"{one.mib[role]:>{w}.0f}" for role, w in zip(SINGLE, (8, 7, 7), strict=True))
    return (
        f"{one.slots:>6}{one.due:>7.1f}{one.rate:>8.1f}{waits}{quantile(one.beats, 0.99):>14.2f}"
        f"{busy}{memory}{one.idle:>7.2f}{one.load:>7.1f}"
    )
