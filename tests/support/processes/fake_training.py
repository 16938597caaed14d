"""A stand-in for the training of a job: reports as its configuration tells it to."""

import os
import time
from pathlib import Path

from meanflow_tune.records import Job, Outcome, Report, Reporter

TICK_SECONDS = 0.02


def run_job(job: Job, rank: int, size: int, device: str, reporter: Reporter) -> Outcome:
    """config: x, rungs, seconds per rung, fail ("raise", "memory" or none), deaf (does not stop).

    Resumes from its folder.
    """
    config, folder = job.config, Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"pid-{rank}-{job.attempt}").write_text(str(os.getpid()))
    last = folder / "rung"
    start = int(last.read_text()) if last.exists() else 0
    for rung in range(start + 1, config["rungs"] + 1):
        if config.get("fail") == "raise" and rank == size - 1:
            raise ArithmeticError("the step was not finite")
        if config.get("fail") == "memory" and rank == size - 1:
            raise MemoryError("Unable to allocate 8.00 TiB for an array")
        total = _world_sum(rank + 1.0, size)
        # Counted, not timed: ranks with clocks of their own would make different numbers of sums.
        for _ in range(round(config.get("seconds", 0.0) / TICK_SECONDS)):
            reporter.tick({"images": rung * 100})
            time.sleep(TICK_SECONDS)
            stopping = reporter.stopping() and not config.get("deaf")
            if _world_sum(float(stopping), size) > 0:
                return Outcome("running", f"interrupted in rung {rung}")
        go_on = False
        if rank == 0:
            metrics = {"toy@1": config["x"] + 1.0 / rung, "total@1": total}
            go_on = reporter.report(Report(rung * 100, metrics, {}, time.time()))
            last.write_text(str(rung))
        if _world_sum(float(go_on), size) == 0:
            return Outcome("pruned", f"stopped at rung {rung}")
    return Outcome("completed")


def _world_sum(value: float, size: int) -> float:
    if size == 1:
        return value
    import torch
    import torch.distributed as dist

    tensor = torch.tensor([value])
    dist.all_reduce(tensor)
    return float(tensor)
