"""The worker's half of `paced.py`: notes every training step, and takes its time for it.

Environment, which Ray's daemons hand to their workers: HOSTS_TRACE, a folder with one file per rank's
process and its lines "time trial step"; HOSTS_PACE, a file with the seconds that a step takes at least,
so that faults meet trials that run while processors are free.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

from meanflow_tune.records import Job, Outcome, Reporter

_job: list[int] = []


def run_job(
    job: Job, rank: int, size: int, device: str, reporter: Reporter, **options: Any
) -> Outcome:
    """In place of `training.job.run_job`, which it calls."""
    from meanflow_tune.training import job as training

    if not _job and "HOSTS_TRACE" in os.environ:
        _watch_steps(rank)
    _job[:] = [job.number]
    return training.run_job(job, rank, size, device, reporter, **options)


def _watch_steps(rank: int) -> None:
    from meanflow_tune.training.run import Run

    advance = Run.advance
    pace = Path(os.environ["HOSTS_PACE"])
    name = f"{socket.gethostname()} {os.getpid()} {rank} {time.time():.3f}"
    trace = (Path(os.environ["HOSTS_TRACE"]) / name).open("a", buffering=1)

    def noted(self: Run, module: Any) -> Any:
        began = time.monotonic()
        result = advance(self, module)
        if self.config.teacher is not None:  # a student
            trace.write(f"{time.time():.3f} {_job[0]} {self.step}\n")
            time.sleep(max(0.0, began + float(pace.read_text()) - time.monotonic()))
        return result

    Run.advance = noted  # type: ignore[method-assign]
