"""How many trials run at once, and what each rank of them gets. Without Ray."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """`slots` trials at once, each of `workers` ranks with `cpus` processors and `gpus` GPUs."""

    slots: int
    workers: int
    cpus: float
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """Of one rank."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return {kind: amount for kind, amount in wanted.items() if amount > 0}

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return (
            f"{self.slots} trial{'s' * (self.slots > 1)} at once, {self.workers} "
            f"rank{'s' * (self.workers > 1)} each with {self.cpus:g} CPU{gpus}"
        )


def plan_layout(
    total: dict[str, float],
    workers: int,
    cpus: float,
    gpus: float | None,
    max_concurrent: int | None,
) -> Layout:
    """What fits into the cluster's `total` resources.

    gpus None: one per rank where the cluster has enough for a trial, else none. `max_concurrent` slots
    are planned even where fewer fit, so that `preflight.check_resources` refuses.
    """
    if gpus is None:
        gpus = 1.0 if total.get("GPU", 0.0) >= workers else 0.0
    fits = [math.floor(total.get("CPU", 0.0) / (workers * cpus) + 1e-9)]
    if gpus > 0:
        fits.append(math.floor(total.get("GPU", 0.0) / (workers * gpus) + 1e-9))
    return Layout(max_concurrent or max(1, min(fits)), workers, cpus, gpus)
