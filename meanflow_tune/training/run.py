"""A training run: its state and one step.

Progress is counted in images. Every draw is a function of (seed, images seen, purpose, row of the global
batch), so that a run is the same after a resume and on another number of ranks, each of which draws its own
rows only.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.jets import engine_of
from meanflow_tune.core.module_state import (
    has_dropout,
    load_whole_state,
    rebuilding_generator,
    whole_state,
)
from meanflow_tune.core.paths import linear_path
from meanflow_tune.core.products import float32_products
from meanflow_tune.core.random import GOLDEN, SILVER, RowDraws, fold, make_generator
from meanflow_tune.core.rows import to_device
from meanflow_tune.core.types import Columns, DataSplit, LossOutput, PathSample, TimePair, Velocity
from meanflow_tune.objective.loss_module import Objective
from meanflow_tune.objective.velocities import self_teacher
from meanflow_tune.records import Report
from meanflow_tune.time_samplers.base import DRAWS
from meanflow_tune.training.compile_cache import use_compile_cache
from meanflow_tune.training.curve import CurveRecorder
from meanflow_tune.training.divergence import DivergenceCheck
from meanflow_tune.training.optim import MovingAverage, learning_rate, make_optimizer
from meanflow_tune.training.world import World

# Of a loss term: its sum, and over how many steps of a rank.
Sums = dict[str, tuple[float, int]]


class OtherConfiguration(ValueError):
    """A checkpoint belongs to another configuration."""


@dataclass
class Run:
    """All state of a training run; `state_dict` holds all that a resume needs.

    sums: of the loss terms between the last rung and an interruption, over all ranks. go_on: the
    decision after the newest report; at the last rung it asks for repeats. curve: since that report.
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
    sums: Sums = field(default_factory=dict)
    go_on: bool = True
    curve: CurveRecorder = field(init=False)
    check: DivergenceCheck = field(init=False)

    def __post_init__(self) -> None:
        budget, label = self.config.budget, self.data.train_label
        self.curve = CurveRecorder(budget.steps)
        self.check = DivergenceCheck(budget.global_batch)
        self._labels = None if label is None else label.cpu()
        self._drops = has_dropout(self.objective.student)

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
        student's first weights, where student_init is "teacher".

        Raises ValueError when the global batch cannot be split evenly over the ranks, when labels are
        to be dropped but the data has none, and when `initial` does not agree with student_init.
        """
        batch = config.budget.global_batch
        if batch % world.size:
            raise ValueError(
                f"budget.global_batch must be a multiple of the ranks, but got {batch} and {world.size}."
            )
        if config.compile_choice.compiled:
            use_compile_cache()
        generator = make_generator(config.seed, "weights")
        student = placed(config.network(data.shape, data.classes, generator), config, world)
        if (config.student_init == "teacher") != (initial is not None):
            raise ValueError(
                f"student_init is {config.student_init!r}, but {initial is not None=}."
            )
        if initial is not None:
            load_whole_state(student, initial)
        net = config.network(data.shape, data.classes, rebuilding_generator())
        ema = MovingAverage(student, placed(net, config, world), config.ema)
        if config.velocity_source == "from_scratch":
            engine = engine_of(config.compile_choice.compiled, config.precision)
            teacher = self_teacher(ema.net, engine)
        objective = Objective(student, teacher, config, data.classes).to(world.device)
        if world.size > 1:  # DDP has just given this rank the buffers of rank 0
            objective.register_forward_pre_hook(lambda module, inputs: ema.follow(student))
        optimizer = make_optimizer(objective.parameters(), config.optimizer)
        return cls(config, world, data, objective, ema, optimizer, 0, {}, [])

    @property
    def images(self) -> int:
        return self.step * self.config.budget.global_batch

    def batch(self) -> PathSample:
        """This rank's rows of the next global batch; the global batch does not depend on the ranks.

        What decides which rows get which pass is drawn in the processor's memory, noise on the device.
        """
        config, data, device = self.config, self.data, self.world.device
        count, seed = config.budget.global_batch, fold(config.seed, self.images)
        rows = torch.arange(count)[self.world.rows(count)]
        words = {"data": 2, "times": 2 * DRAWS}
        if config.label_dropout > 0.0:
            words["label_dropout"] = 2
        noise = {"noise": math.prod(data.shape)}
        on_processor = torch.device(device).type == "cpu"
        draws = RowDraws(seed, rows, words | noise if on_processor else words)
        index = (draws.uniform("data")[:, 0] * len(data.train_x)).long()
        label = None if self._labels is None else self._labels[index]
        if config.label_dropout > 0.0:
            assert label is not None
            assert data.classes is not None
            dropped = draws.uniform("label_dropout")[:, 0] < config.label_dropout
            label = label.masked_fill(dropped, data.classes)
        sampler = config.time_sampler
        times = sampler.pairs(draws.uniform("times"), sampler.diagonal_rows(rows, count))
        second = draws.spread("second_order", GOLDEN) if config.losses.fraction < 1.0 else None
        ode = draws.spread("x_source", SILVER) if config.x_source.kind == "annealed" else None
        if on_processor:
            x_0, x_1 = draws.normal("noise", data.shape), data.train_x[index]
            path = linear_path(x_0, x_1, times, label)
            return self._masked(replace(path, uniform_draw=second, ode_draw=ode), rows)
        columns = Columns(times.t, times.s, label, second, ode)
        own = torch.arange(count, device=device)[self.world.rows(count)]
        x_0 = RowDraws(seed, own, noise).normal("noise", data.shape)
        x_1 = data.train_x[to_device(index, device)]
        times = TimePair(to_device(times.t, device), to_device(times.s, device))
        label = None if label is None else to_device(label, device)
        return self._masked(replace(linear_path(x_0, x_1, times, label), columns=columns), own)

    def _masked(self, path: PathSample, rows: Tensor) -> PathSample:
        """`path` with what determines its masks of dropout; rows: of the global batch, on the device."""
        if not self._drops:
            return path
        return replace(path, row=rows, dropout_seed=fold(self.config.seed, "dropout", self.images))

    def advance(self, module: nn.Module) -> LossOutput:
        """One optimiser step through `module` (the objective, or DDP around it).

        Raises Diverged, on a device for a step some time ago: `settle` comes before its results are used.
        """
        budget, settings = self.config.budget, self.config.optimizer
        with float32_products(self.config.precision == "tf32"):
            output: LossOutput = module(self.batch(), self.step / budget.steps)
            self.optimizer.zero_grad(set_to_none=True)
            output.loss.backward()  # type: ignore[no-untyped-call]
        parameters = list(self.objective.parameters())
        bound = math.inf if settings.clip_norm is None else settings.clip_norm
        norm = nn.utils.clip_grad_norm_(parameters, bound)
        self.check.add(self.step, norm, output.terms)
        rate = learning_rate(settings, (self.step + 0.5) / budget.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        self.ema.update(self.objective.student, self.images, budget.global_batch)
        output.terms["gradient_norm"] = norm
        return output

    def settle(self) -> None:
        """Wait until all steps so far are known to be finite. Collective; raises Diverged."""
        self.check.settle()
        self.curve.settle(self.world)

    def averaged(self) -> nn.Module:
        """The moving average of the student, for evaluation, with rank 0's buffers. Collective."""
        student = self.objective.student
        if self.world.size > 1:
            buffers = {name: x.cpu() for name, x in student.named_buffers()}
            for name, value in self.world.share(buffers).items():
                student.get_buffer(name).copy_(value)
        self.ema.follow(student)
        return self.ema.net

    def averaged_state(self) -> dict[str, Tensor]:
        """All that makes a rebuilt network this rank's moving average of the student; CPU copies.

        Raises Diverged.
        """
        self.check.settle()
        self.ema.follow(self.objective.student)
        state = self.ema.stored(self.ema.net)
        return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Of several ranks, `settle` must have been called since the last step. Raises Diverged."""
        self.check.settle()  # a state that is not finite is never written
        if self.world.size == 1:
            self.curve.settle(self.world)
        return {
            "config": self.config.to_dict(),
            "student": self.ema.stored(self.objective.student),
            "weighting": whole_state(self.objective.weighting),
            "ema": self.ema.weights,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "cost": self.cost,
            "reports": [report.to_dict() for report in self.reports],
            "sums": {name: list(each) for name, each in self.sums.items()},
            "curve": self.curve.state_dict(),
        }

    def snapshot(self) -> dict[str, Any]:
        """A copy of `state_dict` in the processor's memory."""
        return cast(dict[str, Any], tree_map_only(Tensor, _copied, self.state_dict()))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises OtherConfiguration, and where the state is not one of a run, some other exception, which
        leaves this run in parts loaded.
        """
        # Parsed: an earlier revision stored fewer settings, which meant the same.
        if TrialConfig.from_dict(state["config"]) != self.config:
            raise OtherConfiguration(
                "the checkpoint belongs to another configuration than this one; name another folder, or "
                "remove its checkpoints"
            )
        load_whole_state(self.objective.student, state["student"])
        load_whole_state(self.objective.weighting, state["weighting"])
        self.ema.load_state_dict(state["ema"])
        self.ema.follow(self.objective.student)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.cost = dict(state["cost"])
        self.reports = [Report(**report) for report in state["reports"]]
        # Checkpoints of earlier revisions have neither.
        self.sums = {name: (each[0], each[1]) for name, each in state.get("sums", {}).items()}
        if "curve" in state:
            self.curve.load_state_dict(state["curve"])


def placed(net: nn.Module, config: TrialConfig, world: World) -> nn.Module:
    """`net` on the device; its convolutions, where the configuration says so, with channels last.

    A convolution computes in the layout of its weight, whatever that of the image, and keeps it.
    """
    net = net.to(world.device)
    if config.channels_last:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


class Meter:
    """Means of the loss terms, and the time of all ranks, since it was made (at the last rung).

    A term is the mean over the steps of all ranks that had it. Those with a `/` in their name are of the
    samples with t < s only, of which ranks may have unequal numbers, so that their means on several
    ranks are not exactly those on one.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.terms: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.count = 0
        self.processor, self.wall = time.process_time(), time.perf_counter()

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            # In double precision, so that an interruption does not change the sum.
            self.terms[name] = self.terms.get(name, 0.0) + value.double()
            self.counts[name] = self.counts.get(name, 0) + 1
        self.count += 1

    def sums(self, before: Sums) -> Sums:
        """`before` and the terms since, of all ranks. Collective."""
        found = dict(before)
        local = {name: (float(term), self.counts[name]) for name, term in self.terms.items()}
        for of_rank in self.world.gather(local):
            for name, (value, count) in of_rank.items():
                total, number = found.get(name, (0.0, 0))
                found[name] = (total + value, number + count)
        return found

    def cost(self, before: dict[str, float]) -> dict[str, float]:
        """`before` plus the cost of these steps. Collective."""
        wall = time.perf_counter() - self.wall
        on_gpu = self.world.device.startswith("cuda")
        name = "gpu_seconds" if on_gpu else "cpu_seconds"
        spent = self.world.sum(wall if on_gpu else time.process_time() - self.processor)
        steps = before.get("steps", 0.0) + self.count
        total = before.get("wall_seconds", 0.0) + wall
        return {
            name: before.get(name, 0.0) + spent,
            "wall_seconds": total,
            "steps": steps,
            "step_ms": 1e3 * total / max(steps, 1.0),
        }


def means(sums: Sums) -> dict[str, float]:
    """`loss/NAME`: the mean of each term."""
    return {f"loss/{name}": total / count for name, (total, count) in sorted(sums.items())}
