"""The training loop: rungs, checkpoints and reports around the steps of a `Run`."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from meanflow_tune.checksums import Damaged
from meanflow_tune.core.products import float32_products
from meanflow_tune.core.types import LossOutput
from meanflow_tune.curves import CURVE, write_curve
from meanflow_tune.files import OnlyShown
from meanflow_tune.formats import FormatError
from meanflow_tune.metrics.base import NonFiniteSamples
from meanflow_tune.records import Outcome, Report, Reporter
from meanflow_tune.training.checkpoints import (
    UNFINISHED,
    checked,
    load_checkpoint,
    reason,
    save_checkpoint,
    set_aside,
)
from meanflow_tune.training.curve import no_system
from meanflow_tune.training.disk_wait import unfenced, write_or_wait
from meanflow_tune.training.divergence import Diverged
from meanflow_tune.training.evaluation import Evaluator
from meanflow_tune.training.memory import memory_shortage
from meanflow_tune.training.run import Meter, OtherConfiguration, Run, means

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
STOP_STEPS = 20
_ONLY_SHOWN = OnlyShown()


def train(
    run: Run,
    folder: Path,
    reporter: Reporter,
    evaluator: Evaluator | None,
    *,
    fence: Callable[[], None] = unfenced,
    phase: str = "train",
    repeat: int = 0,
    system: Callable[[], dict[str, float]] = no_system,
) -> Outcome:
    """Train `run` to the end of its budget, from the newest valid checkpoint below `folder`.

    Every rank calls it. At each rung: evaluate the moving average, save, report, and stop if the
    decision says so. fence: called before each write, raises when this run no longer owns `folder`.
    repeat: the k-th repeat on another seed saves at each rung, but reports its end only, with this k.
    system: what the host does, for the points of the curve.

    Returns an Outcome: completed, pruned, diverged, or running (interrupted by `reporter.stopping`);
    `run.go_on` then holds the newest decision. Raises Interrupted where the interruption came while
    the disk was full, so that nothing new could be saved.
    """
    training = _Training(run, folder, reporter, evaluator, fence, phase, repeat, system)
    try:
        return training.train()
    except Diverged as error:
        # 1 and the share of the budget that was not reached: 2 at the first step.
        step = run.step if error.step is None else error.step
        left = 1.0 - step / run.config.budget.steps
        return Outcome("diverged", str(error), violation=1.0 + left)


@dataclass
class _Training:
    """The parts of `train`, with its arguments.

    ticked: time of the last tick (seconds); saved: images of the newest checkpoint.
    """

    run: Run
    folder: Path
    reporter: Reporter
    evaluator: Evaluator | None
    fence: Callable[[], None]
    phase: str
    repeat: int
    system: Callable[[], dict[str, float]]
    ticked: float = 0.0
    saved: int = 0

    def __post_init__(self) -> None:
        budget = self.run.config.budget
        self.steps, self.rungs = budget.steps, set(budget.rung_steps)
        self.images = budget.steps * budget.global_batch
        self.checkpoints = self.folder / "checkpoints"

    def train(self) -> Outcome:
        """Raises Diverged."""
        run, pruned = self.run, Outcome("pruned", "stopped at a rung")
        self._load()
        for report in run.reports:  # the driver may not have heard it; receiving is idempotent
            if not self._report(report):
                return pruned
        module: nn.Module = run.objective
        if run.world.size > 1:
            module = DistributedDataParallel(run.objective)
        self.meter = Meter(run.world)
        run.curve.start()
        while run.step < self.steps:
            if self._stopping():
                run.curve.stop()
                run.settle()
                run.cost, run.sums = self.meter.cost(run.cost), self.meter.sums(run.sums)
                self._save()
                return Outcome("running", "interrupted")
            output = run.advance(module)
            self.meter.add(output.terms)
            self._draw(output)
            self._tick()
            if run.step in self.rungs:
                run.curve.stop()
                run.settle()
                if not self._rung():
                    return pruned
                # Evaluation and the wait for the decision are not training cost.
                self.meter = Meter(run.world)
                run.curve.start()
        return Outcome("completed")

    def _load(self) -> None:
        """Continue from the newest checkpoint that every rank can load, else from the start.

        The others are told, and put aside where they are damaged.
        """
        run, world = self.run, self.run.world
        found = checked(self.checkpoints) if world.leads else iter(())
        start: dict[str, Any] | None = None
        while True:
            path, why = world.share(next(found, (None, "")))
            if path is None:
                return
            if not why:
                start = run.snapshot() if start is None else start
                why = next((each for each in world.gather(self._try(path)) if each), "")
                if not why:
                    self.saved = run.images
                    return
                run.load_state_dict(start)
            if world.leads:
                self._put_aside(path, why)

    def _try(self, checkpoint: Path) -> str:
        """Load a checkpoint; why it cannot be, "" if it is. Raises what is no damage."""
        try:
            self.run.load_state_dict(load_checkpoint(checkpoint))
        except (FormatError, OtherConfiguration, OSError, torch.AcceleratorError):
            raise
        except Exception as error:  # of torch and Python, by what the state lacks
            if memory_shortage(error) is not None:
                raise
            log.debug("%s", checkpoint, exc_info=error)
            return str(error) if isinstance(error, Damaged) else f"it is of no run: {reason(error)}"
        return ""

    def _put_aside(self, checkpoint: Path, why: str) -> None:
        self.fence()
        action = "the training continues from the one before, or from the start"
        if why == UNFINISHED:  # it is written again when the training comes there
            self.reporter.fault(f"checkpoint {checkpoint} does not count ({why})", action)
            return
        try:
            where = f"it is kept as {set_aside(checkpoint).name}"
        except OSError as error:
            where = f"it cannot be renamed ({error.strerror})"
        self.reporter.fault(f"checkpoint {checkpoint} is damaged ({why})", f"{where}; {action}")

    def _stopping(self) -> bool:
        world = self.run.world
        if world.size > 1 and self.run.step % STOP_STEPS != 0:
            return False
        return world.share(world.leads and self.reporter.stopping())

    def _tick(self) -> None:
        """Tell how far the steps are that are known to be finite, and the loss there."""
        now = time.monotonic()
        if self.run.world.leads and now - self.ticked > TICK_SECONDS:
            newest = self.run.check.newest()
            if newest is None:
                return
            self.ticked = now
            images, loss = newest
            done = {"images": images, "of": self.images, "saved": self.saved}
            self.reporter.tick({"phase": self.phase, **done, "loss": loss})

    def _draw(self, output: LossOutput) -> None:
        run = self.run
        rate = float(run.optimizer.param_groups[0]["lr"])
        loss = output.terms["loss"]
        run.curve.add(run.step, run.images, loss, rate, self.system)

    def _write_curve(self) -> Path:
        """The file of the points since the last report."""
        path = self.folder / CURVE / f"{self.run.images:012d}.json"
        write = partial(write_curve, path, self.run.curve.take())
        self._write(lambda: _ONLY_SHOWN("write the curve of a rung", write, None, full=True))
        return path

    def _rung(self) -> bool:
        """Evaluate, save and report; whether the training continues. Raises Diverged."""
        run = self.run
        run.cost, metrics = self.meter.cost(run.cost), means(self.meter.sums(run.sums))
        run.sums = {}
        if self.repeat and run.step < self.steps:
            self._save()
            return True
        artifacts: dict[str, str] = {}
        if self.evaluator is not None:
            measured, grid = self._evaluate(self.evaluator)
            metrics |= measured
            artifacts["samples"] = str(grid)
        artifacts[CURVE] = str(self._write_curve())
        now = time.time()
        report = run.world.share(Report(run.images, metrics, run.cost, now, artifacts, self.repeat))
        run.reports.append(report)
        self._save()
        return self._report(report)

    def _evaluate(self, evaluator: Evaluator) -> tuple[dict[str, float], Path]:
        """Metrics of the moving average, and the file of its samples. Raises Diverged."""
        run = self.run
        try:
            with float32_products(tf32=False):
                metrics, shown = evaluator.evaluate(run.averaged(), run.world)
        except NonFiniteSamples as error:
            raise Diverged(f"{error} after {run.images} images") from None
        bad = run.world.share([name for name, x in metrics.items() if not math.isfinite(x)])
        if bad:  # of finite samples, but too far away for the metric
            raise Diverged(f"{', '.join(bad)} not finite after {run.images} images")
        grid = self.folder / "samples" / f"{run.images:012d}.npz"
        write = partial(evaluator.write_samples, grid, shown)
        self._write(lambda: _ONLY_SHOWN("write the samples of a rung", write, None, full=True))
        return metrics, grid

    def _report(self, report: Report) -> bool:
        """Report a rung; whether the training continues. At the last one `run.go_on` is about repeats."""
        run = self.run
        run.go_on = run.world.share(self.reporter.report(report) if run.world.leads else True)
        return run.go_on or report.images >= self.images

    def _save(self) -> None:
        run = self.run
        state = run.state_dict if run.world.device == "cpu" else run.snapshot
        self._write(lambda: save_checkpoint(self.checkpoints, run.images, state()))
        self.saved = run.images

    def _write(self, write: Callable[[], object]) -> None:
        run = self.run
        write_or_wait(run.world, self.reporter, self.folder, write, run.images, self.fence)
