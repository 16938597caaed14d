"""Compares two layouts of the processors: two concurrent trials of one rank, or one trial of two ranks."""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from meanflow_tune.cluster.runner import Runner
from meanflow_tune.cluster.signals import Interrupt
from meanflow_tune.config import TrialConfig
from meanflow_tune.config.overrides import override
from meanflow_tune.plan.request import TEACHERS
from meanflow_tune.records import Job
from meanflow_tune.search.space.draws import draw_fixed
from meanflow_tune.search.space.load import load_space
from meanflow_tune.training.job import run_job


class FixedTrials:
    """A director that hands out given jobs and notes when each ended."""

    def __init__(self, jobs: list[Any]) -> None:
        self._jobs = list(jobs)
        self.ended: list[float] = []
        self.statuses: list[str] = []

    def next_job(self) -> Any:
        return self._jobs.pop(0) if self._jobs else None

    def exhausted(self) -> bool:
        return not self._jobs

    def on_report(self, number: int, report: Any) -> bool:
        return True

    def on_end(self, number: int, outcome: Any) -> None:
        self.ended.append(time.perf_counter())
        self.statuses.append(outcome.status)

    def on_tick(self, snapshot: dict[str, Any]) -> None: ...

    def to_stop(self) -> tuple[int, ...]:
        return ()


def slots(trials: int, images: int, cache: Path | None) -> int:
    """Print seconds per trial in steady state: the first trial of each slot is a warm-up and not counted."""
    print(machine(), flush=True)
    space = load_space("second_order")
    base = draw_fixed(space.suggest, space.baselines["backward_forward"]).config.to_dict()
    settings = [f"budget.images={images}", "budget.rungs=[1.0]"]
    config = TrialConfig.from_dict(override(base, settings)).to_dict()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="mft-benchmark-") as folder:
        storage = Path(folder)
        if cache is not None:
            (storage / TEACHERS).symlink_to(cache.absolute())
        for name, count, workers in (("2 slots of 1 rank", 2, 1), ("1 slot of 2 ranks", 1, 2)):
            interrupt = Interrupt()
            jobs = [
                Job(name, n, config, str(storage / name / str(n)), 0, 0)
                for n in range(count + trials)
            ]
            director = FixedTrials(jobs)
            with Runner.start(
                cluster=None,
                workers=workers,
                max_concurrent=count,
                cpus_per_worker=1.0,
                gpus_per_worker=0.0,
                storage=storage,
                study=storage,
                epoch=1,
                interrupt=interrupt,
                run_job=partial(run_job, cache=str(storage / TEACHERS)),
            ) as runner:
                runner.search(director, "benchmark", interrupt)
            if set(director.statuses) != {"completed"}:
                print(f"{name}: trials ended as {director.statuses}", file=sys.stderr)
                return 1
            seconds = (director.ended[-1] - director.ended[count - 1]) / trials
            figures[name] = seconds
            print(
                f"{name}: {seconds:.2f} s per trial of {images:,} images ({trials} trials)",
                flush=True,
            )
    first, second = figures.values()
    print(f"ratio: one slot of two ranks takes {second / first:.2f} times as long")
    return 0
