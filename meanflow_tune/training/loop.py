"""The training loop: steps, rungs, checkpoints. Counted in images; every draw is a function of
(seed, images seen, purpose), so that a resumed run is the same run and so is one on other ranks.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.engine import engine_of
from meanflow_tune.core.paths import linear_path
from meanflow_tune.core.random import make_generator, spread_lots
from meanflow_tune.core.types import DataSplit, LossOutput, PathSample, TimePair, Velocity
from meanflow_tune.metrics.base import NonFiniteSamples
from meanflow_tune.objective import Objective
from meanflow_tune.records import Outcome, Report
from meanflow_tune.training.evaluation import Evaluator
from meanflow_tune.training.optim import MovingAverage, learning_rate, make_optimizer
from meanflow_tune.training.patience import write_patiently
from meanflow_tune.training.state import load_checkpoint, newest_checkpoint, save_checkpoint
from meanflow_tune.training.world import World

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


class Diverged(ArithmeticError):
    """A loss or gradient that is not finite: which step and which term."""


@dataclass
class Run:
    """All state of a training run; what `state_dict` holds is all that a resume needs.

    go_on: the sink's answer to the newest report; at the last rung it asks for repeats.
    """

    config: TrialConfig
    world: World
    data: DataSplit
    objective: Objective
    ema: MovingAverage
    optimizer: torch.optim.Optimizer
    step: int
    cost: dict[str, float]
    reports: list[Report]
    go_on: bool = True

    @classmethod
    def start(
        cls,
        config: TrialConfig,
        world: World,
        data: DataSplit,
        teacher: Velocity | None,
        initial: Mapping[str, Tensor] | None = None,
    ) -> "Run":
        """A run at step 0, its weights drawn from the configuration's seed. `data` is on the device.

        teacher: the guided v_phi; not used where the velocities are from scratch. initial: the
        weights to begin with, where student_init is "teacher".

        Raises ValueError when the global batch cannot be split evenly over the ranks, and when labels
        are to be dropped that the data has not.
        """
        batch = config.budget.global_batch
        if batch % world.size:
            raise ValueError(
                f"budget.global_batch must be a multiple of the ranks, but got {batch} and {world.size}."
            )
        generator = make_generator(config.seed, "weights")
        student = config.network(data.shape, data.classes, generator).to(world.device)
        if (config.student_init == "teacher") != (initial is not None):
            raise ValueError(
                f"student_init is {config.student_init!r}, but {initial is not None=}."
            )
        if initial is not None:
            student.load_state_dict(initial)
        ema = MovingAverage(student, config.ema)
        if config.velocity_source == "from_scratch":
            teacher = self_teacher(config, data, ema, world.device)
        objective = Objective(student, teacher, config, data.classes).to(world.device)
        optimizer = make_optimizer(objective.parameters(), config.optimizer)
        return cls(config, world, data, objective, ema, optimizer, 0, {}, [])

    @property
    def images(self) -> int:
        return self.step * self.config.budget.global_batch

    def batch(self) -> PathSample:
        """This rank's rows of the next global batch; the global batch does not depend on the ranks."""
        count, device = self.config.budget.global_batch, self.world.device
        seed, images, rows = self.config.seed, self.images, self.world.rows(count)

        def draw(purpose: str, where: str = "cpu") -> torch.Generator:
            return make_generator(seed, images, purpose, device=where)

        index = torch.randint(len(self.data.train_x), (count,), generator=draw("data"))[rows]
        index = index.to(device)
        x_1 = self.data.train_x[index]
        label = None if self.data.train_label is None else self.data.train_label[index]
        if self.config.label_dropout > 0.0:
            assert label is not None
            assert self.data.classes is not None
            dropped = torch.rand(count, generator=draw("label_dropout")) < self.config.label_dropout
            label = label.masked_fill(dropped[rows].to(device), self.data.classes)
        shape = (count, *self.data.shape)
        x_0 = torch.randn(shape, generator=draw("noise", device), device=device)[rows]
        times = self.config.time_sampler.sample(count, draw("times"))
        here = TimePair(times.t[rows].to(device), times.s[rows].to(device))
        path = linear_path(x_0, x_1, here, label)
        if self.config.losses.fraction == 1.0:
            return path
        return replace(path, lot=spread_lots(count, draw("lot"))[rows].to(device))

    def advance(self, module: nn.Module) -> LossOutput:
        """One optimiser step through `module` (the objective, or DDP around it). Raises Diverged."""
        budget, settings = self.config.budget, self.config.optimizer
        output: LossOutput = module(self.batch(), self.step / budget.steps)
        self.optimizer.zero_grad(set_to_none=True)
        output.loss.backward()  # type: ignore[no-untyped-call]
        parameters = list(self.objective.parameters())
        norm = nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        if not torch.isfinite(norm):
            bad = [name for name, term in output.terms.items() if not torch.isfinite(term)]
            culprit = ", ".join(bad) if bad else "gradient"
            raise Diverged(f"{culprit} not finite at step {self.step} ({self.images} images)")
        rate = learning_rate(settings, (self.step + 1) / budget.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        self.ema.update(self.objective.student, self.images, budget.global_batch)
        output.terms["gradient_norm"] = norm
        return output

    def averaged_state(self) -> dict[str, Tensor]:
        """The student's state with the moving average in place of its weights, on the CPU."""
        state = self.objective.student.state_dict() | self.ema.weights
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "student": self.objective.student.state_dict(),
            "weighting": self.objective.weighting.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "cost": self.cost,
            "reports": [report.to_dict() for report in self.reports],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError when the state is of another configuration."""
        if state["config"] != self.config.to_dict():
            raise ValueError("the checkpoint is of another configuration than the trial's")
        self.objective.student.load_state_dict(state["student"])
        self.objective.weighting.load_state_dict(state["weighting"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.cost = dict(state["cost"])
        self.reports = [Report(**report) for report in state["reports"]]


def self_teacher(config: TrialConfig, data: DataSplit, ema: MovingAverage, device: str) -> Velocity:
    """v(x, t) = u_EMA(x, t, t): the moving average as its own teacher, without gradient."""
    net = config.network(data.shape, data.classes, make_generator(0, "self-teacher")).to(device)
    ema.share_with(net.eval().requires_grad_(False))
    engine = engine_of(config.compile, config.precision)

    def velocity(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return engine.forward(net, x, t, t, label=label)

    return velocity


class Meter:
    """Means of the loss terms since the last rung, and the processor time of all ranks.

    A term with a `/` in its name may be missing from a step or a rank, where no sample had it: it is
    the mean over the steps of this rank that had it. The others are means over all ranks.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.terms: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.count = 0
        self.processor, self.wall = time.process_time(), time.perf_counter()

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, torch.zeros_like(value)) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.count += 1

    def flush(self, cost: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
        """(loss metrics, cost so far); starts anew. Collective."""
        wall = time.perf_counter() - self.wall
        on_gpu = self.world.device.startswith("cuda")
        name = "gpu_seconds" if on_gpu else "cpu_seconds"
        spent = self.world.sum(wall if on_gpu else time.process_time() - self.processor)
        steps = cost.get("steps", 0.0) + self.count
        total = cost.get("wall_seconds", 0.0) + wall
        cost = {
            name: cost.get(name, 0.0) + spent,
            "wall_seconds": total,
            "steps": steps,
            "step_ms": 1e3 * total / max(steps, 1.0),
        }
        names = [key for key in self.terms if "/" not in key]
        losses = {f"loss/{k}": self.world.sum(float(self.terms[k])) for k in names}
        losses = {k: v / max(self.count, 1) / self.world.size for k, v in losses.items()}
        for key in self.terms.keys() - set(names):
            losses[f"loss/{key}"] = float(self.terms[key]) / self.counts[key]
        self.__init__(self.world)  # type: ignore[misc]
        return losses, cost


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

        write_patiently(world, sink, fenced, folder, run.images)

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
        meter = Meter(world)  # evaluation and the wait for the verdict are not training cost
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
