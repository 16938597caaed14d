"""The trials of `benchmark.py search`, identical for all sides of the comparison.

trivial: an all-reduce of one number, a small checkpoint and a report at each of three rungs, so that all
time is overhead. short: the training run of `short_space`, by this package's own loop.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from optuna.trial import FixedTrial

from benchmarks.overhead import short_space
from meanflow_tune.config import TrialConfig
from meanflow_tune.files import write_atomic
from meanflow_tune.records import Job, Outcome, Report, Reporter

Kind = Literal["trivial", "short"]
KINDS: tuple[Kind, ...] = ("trivial", "short")
TRAINING = "training"  # seconds in optimiser steps, among what a side reports


def config_of(params: dict[str, Any]) -> dict[str, Any]:
    """The configuration that `short_space` gives for these parameters."""
    return short_space.suggest(FixedTrial(params)).to_dict()


def job_of(config: dict[str, Any], folder: Path | str, number: int = 0) -> Job:
    """A job as the driver makes them."""
    return Job("benchmark", number, config, str(folder), attempt=0, epoch=0)


def gap(config: dict[str, Any], rung: int) -> float:
    """What a trivial trial reports at a rung, from 1."""
    return float(config["optimizer"]["learning_rate"] + config["weighting"]["power"] / rung)


def rung_images(config: dict[str, Any]) -> list[int]:
    """Images at which a trial reports."""
    budget = TrialConfig.from_dict(config).budget
    return [steps * budget.global_batch for steps in budget.rung_steps]


def run_trivial(job: Job, rank: int, size: int, device: str, reporter: Reporter) -> Outcome:
    """A trivial trial in a slot."""
    config = job.config
    for rung, images in enumerate(rung_images(config), start=1):
        shared_sum(1.0, size)
        if rank == 0:
            save(Path(job.folder) / "checkpoints" / f"{images:012d}.pt", rung)
            metrics = {short_space.METRIC: gap(config, rung)}
            cost = {"cpu_seconds": 0.0, "wall_seconds": 0.0}
            reporter.report(Report(images, metrics, cost, time.time()))
    return Outcome("completed")


def save(path: Path, rung: int) -> None:
    """Write a small checkpoint atomically."""
    import torch

    write_atomic(path, lambda beside: torch.save({"rung": rung, "x": torch.zeros(64)}, beside))


def shared_sum(value: float, size: int) -> float:
    """The sum over all ranks, where there are several."""
    if size == 1:
        return value
    import torch
    import torch.distributed as dist

    tensor = torch.tensor([value])
    dist.all_reduce(tensor)
    return float(tensor)


class Collected:
    """A reporter that keeps the reports of a trial and passes each on to a listener."""

    def __init__(self, listen: Callable[[Report], None] = lambda report: None) -> None:
        self.reports: list[Report] = []
        self._listen = listen

    def report(self, report: Report) -> bool:
        self.reports.append(report)
        self._listen(report)
        return True

    def tick(self, progress: dict[str, Any]) -> None: ...

    def fault(self, cause: str, action: str) -> None: ...

    def stopping(self) -> bool:
        return False


def told(report: Report) -> dict[str, float]:
    """One of our reports as a stock side reports it."""
    return {"gap": report.metrics[short_space.METRIC], TRAINING: report.cost["wall_seconds"]}
