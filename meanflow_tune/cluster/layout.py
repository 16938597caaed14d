"""How many trials run at once, and what each rank of them gets. Without Ray."""

import math
from dataclasses import dataclass

GIB = 2.0**30
# Proportional resident memory of a search of eight_gaussians on processors, from /proc/PID/smaps_rollup of
# its processes while two trials trained:
#   python scripts/tune.py --space eight_gaussians --trials 6 --set budget.images=256000
# A rank has torch with a small network; a slot has its supervisor and Ray Train's synchronization actor; the
# rest are the driver, the relays, the broker and Ray. Larger networks, and CUDA, take more.
RANK_BYTES = 0.42 * GIB
SLOT_BYTES = 0.36 * GIB
REST_BYTES = 1.2 * GIB


@dataclass(frozen=True)
class MemoryLimit:
    """Bytes that the machine allows all of a search, and those that one trial is estimated to take."""

    allowed: float
    trial: float

    @property
    def fits(self) -> int:
        """How many trials at once."""
        return max(0, math.floor((self.allowed - REST_BYTES) / self.trial + 1e-9))

    def __str__(self) -> str:
        return f"memory: {_gib(self.allowed)} allowed, {_gib(self.trial)} per trial"


@dataclass(frozen=True)
class Layout:
    """`slots` trials at once, each of `workers` ranks with `cpus` processors and `gpus` GPUs.

    memory: where it bounds `slots`, or is too small for them; None where it suffices or is unknown.
    """

    slots: int
    workers: int
    cpus: float
    gpus: float
    memory: MemoryLimit | None = None

    @property
    def resources(self) -> dict[str, float]:
        """Of one rank."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return {kind: amount for kind, amount in wanted.items() if amount > 0}

    def fits(self, total: dict[str, float]) -> int:
        """How many such slots `total` resources hold."""
        return min(
            math.floor(total.get(kind, 0.0) / (self.workers * amount) + 1e-9)
            for kind, amount in self.resources.items()
        )

    @property
    def warning(self) -> str:
        """What to do where not even these trials fit into memory, by an estimate; "" where they do."""
        if self.memory is None or self.memory.fits >= self.slots:
            return ""
        need = REST_BYTES + self.slots * self.memory.trial
        fewer = "lower --max-concurrent" if self.memory.fits else "use fewer --workers-per-trial"
        return (
            f"memory may run out: {_trials(self.slots)} at once and Ray take about {_gib(need)}, and this "
            f"process may use {_gib(self.memory.allowed)}; ask the batch system or container for more, or "
            f"{fewer}"
        )

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        memory = f" ({self.memory})" if self.memory is not None else ""
        return (
            f"{_trials(self.slots)} at once, {self.workers} "
            f"rank{'s' * (self.workers > 1)} each with {self.cpus:g} CPU{gpus}{memory}"
        )


def plan_layout(
    total: dict[str, float],
    workers: int,
    cpus: float,
    gpus: float | None,
    max_concurrent: int | None,
    memory: float | None = None,
) -> Layout:
    """What fits into the cluster's `total` resources.

    gpus None: one per rank where the cluster has enough for a trial, else none. `max_concurrent` slots
    are planned even where fewer fit, so that `preflight.check_resources` refuses. memory: bytes that
    this machine allows, None where it does not bound the search; one trial is planned in any case.
    """
    if gpus is None:
        gpus = 1.0 if total.get("GPU", 0.0) >= workers else 0.0
    wanted = max_concurrent or max(1, Layout(1, workers, cpus, gpus).fits(total))
    if memory is None:
        return Layout(wanted, workers, cpus, gpus)
    limit = MemoryLimit(memory, SLOT_BYTES + workers * RANK_BYTES)
    if limit.fits >= wanted:
        return Layout(wanted, workers, cpus, gpus)
    return Layout(max_concurrent or max(1, limit.fits), workers, cpus, gpus, limit)


def _trials(count: int) -> str:
    return f"{count} trial{'s' * (count > 1)}"


def _gib(count: float) -> str:
    return f"{count / GIB:.3g} GiB"
