"""The training loop: rungs, checkpoints and reports around the steps of a `Run`."""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from meanflow_tune.core.random import make_generator
from meanflow_tune.metrics.base import NonFiniteSamples
from meanflow_tune.records import Outcome, Report
from meanflow_tune.training.checkpoints import load_checkpoint, newest_checkpoint, save_checkpoint
from meanflow_tune.training.disk_wait import write_or_wait
from meanflow_tune.training.evaluation import Evaluator
from meanflow_tune.training.run import Diverged, Meter, Run

TICK_SECONDS = 0.5
STOP_STEPS = 20


class Sink(Protocol):
    """Where a run reports; only rank 0 calls it."""

    def report(self, report: Report) -> bool:
        """Hand over a rung; returns whether to go on. Called again with the same report on a resume."""
        ...

    def tick(self, progress: dict[str, Any]) -> None:
        """Progress for a live view; must not block."""
        ...

    def stopping(self) -> bool:
        """Whether the run should save its state and end soon."""
        ...


def train(
    run: Run,
    folder: Path,
    sink: Sink,
    evaluator: Evaluator | None,
    *,
    fence: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = lambda line: None,
    phase: str = "train",
    repeat: int = 0,
) -> Outcome:
    """Train `run` to the end of its budget, from the newest valid checkpoint below `folder`.

    Every rank calls it. At each rung: evaluate the moving average, save, report, and stop if the sink
    says so. `fence` is called before each write and raises when this run no longer owns `folder`.
    repeat: a k-th repeat on another seed reports its end only, with this k; at its other rungs it
    saves. Returns an Outcome: completed, pruned, diverged, or running (interrupted by
    `sink.stopping`); `run.go_on` then holds the sink's answer to the last report. Raises Interrupted
    where that came while the disk was full, so that nothing new could be saved.
    """
    world, budget = run.world, run.config.budget
    checkpoints = folder / "checkpoints"
    found = newest_checkpoint(checkpoints, warn) if world.leads else None
    found = world.share(found)
    if found is not None:
        run.load_state_dict(load_checkpoint(found, world.device))
    for (
        report
    ) in run.reports:  # a report may have been lost with the driver; receiving is idempotent
        if not _report(run, report, sink) and report.images < budget.steps * budget.global_batch:
            return Outcome("pruned", "stopped at a rung")
    module: nn.Module = run.objective
    if world.size > 1:
        module = DistributedDataParallel(run.objective)
    average = run.config.network(run.data.shape, run.data.classes, make_generator(0, "average"))
    average = average.to(world.device).eval()
    meter, ticked = Meter(world), 0.0
    rungs = set(budget.rung_steps)

    def write(what: Callable[[], object]) -> None:
        def fenced() -> None:
            fence()
            what()

        write_or_wait(world, sink, fenced, folder, run.images)

    def save() -> None:
        write(lambda: save_checkpoint(checkpoints, run.images, run.state_dict()))

    while run.step < budget.steps:
        if (world.size == 1 or run.step % STOP_STEPS == 0) and world.share(
            world.leads and sink.stopping()
        ):
            _, run.cost = meter.flush(run.cost)
            save()
            return Outcome("running", "interrupted")
        try:
            output = run.advance(module)
        except Diverged as error:
            return _diverged(run, str(error))
        meter.add(output.terms)
        now = time.monotonic()
        if world.leads and now - ticked > TICK_SECONDS:
            ticked = now
            sink.tick(
                {
                    "phase": phase,
                    "images": run.images,
                    "of": budget.steps * budget.global_batch,
                    "loss": float(output.terms["loss"]),
                }
            )
        if run.step not in rungs:
            continue
        losses, run.cost = meter.flush(run.cost)
        if repeat and run.step < budget.steps:
            save()
            meter = Meter(world)
            continue
        metrics, artifacts = dict(losses), {}
        if evaluator is not None:
            run.ema.copy_to(average)
            try:
                measured, shown = evaluator.evaluate(average, world)
            except NonFiniteSamples as error:
                return _diverged(run, f"{error} after {run.images} images")
            bad = world.share([name for name, x in measured.items() if not math.isfinite(x)])
            if bad:  # of finite samples, but too far away for the metric
                return _diverged(run, f"{', '.join(bad)} not finite after {run.images} images")
            metrics |= measured
            grid = folder / "samples" / f"{run.images:012d}.npz"
            write(partial(evaluator.write_samples, grid, shown))
            artifacts["samples"] = str(grid)
        report = world.share(Report(run.images, metrics, run.cost, time.time(), artifacts, repeat))
        run.reports.append(report)
        save()
        go_on = _report(run, report, sink)
        meter = Meter(world)  # evaluation and the wait for the decision are not training cost
        if not go_on and run.step < budget.steps:
            return Outcome("pruned", "stopped at a rung")
    return Outcome("completed")


def _diverged(run: Run, reason: str) -> Outcome:
    """violation: 1 and the share of the budget that was not reached, so 2 at the first step."""
    left = 1.0 - run.step / run.config.budget.steps
    return Outcome("diverged", reason, violation=1.0 + left)


def _report(run: Run, report: Report, sink: Sink) -> bool:
    run.go_on = run.world.share(sink.report(report) if run.world.leads else True)
    return run.go_on
