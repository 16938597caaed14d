"""The worker's half of `killed.py`: notes every training step, and kills the driver in a checkpoint.

Environment: STEPS, a file for lines "trial step"; KILL_IN_CHECKPOINT, at which checkpoint of this
process ("0": never); DRIVER, the pid of the driver; KILLED, a file that tells that it was done.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meanflow_tune.records import Job, Outcome, Reporter

_job: list[int] = []


def run_job(
    job: Job, rank: int, size: int, device: str, reporter: Reporter, **options: Any
) -> Outcome:
    """In place of `training.job.run_job`, which it calls."""
    from meanflow_tune.training import job as training

    if not _job:
        _watch_steps(Path(os.environ["STEPS"]))
        _watch_checkpoints(int(os.environ["KILL_IN_CHECKPOINT"]))
    _job[:] = [job.number]
    return training.run_job(job, rank, size, device, reporter, **options)


def _watch_steps(path: Path) -> None:
    from meanflow_tune.training.run import Run

    advance = Run.advance

    def noted(self: Run, module: Any) -> Any:
        if self.config.teacher is not None:  # a student
            with path.open("a") as file:
                file.write(f"{_job[0]} {self.step}\n")
        return advance(self, module)

    Run.advance = noted  # type: ignore[method-assign]


def _watch_checkpoints(deadly: int) -> None:
    from meanflow_tune.training import checkpoints

    write, count = checkpoints._write, 0

    def half(path: Path, what: dict[str, Any]) -> None:
        nonlocal count
        write(path, what)
        count += "trials" in path.parts
        if count == deadly and "trials" in path.parts:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)
            Path(os.environ["KILLED"]).write_text("in a checkpoint of a worker")
            os.kill(int(os.environ["DRIVER"]), signal.SIGKILL)
            time.sleep(600)  # until Ray ends this process, too

    write_half: Callable[[Path, dict[str, Any]], None] = half
    checkpoints._write = write_half
