"""TrialConfig: the one description of a training run, resolved, validated and immutable.

A configuration is data: `to_dict` is what Ray ships, what MLflow logs, what a checkpoint stores and
what `scripts/train.py --config` runs.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from meanflow_tune.data import Data
from meanflow_tune.ds_schedules import DsSchedule
from meanflow_tune.losses import FlowMatching, LossMix, Solver
from meanflow_tune.metrics import (
    FrechetFeatures,
    FrechetPixels,
    Metric,
    SlicedWasserstein,
    TeacherGap,
)
from meanflow_tune.models import Model
from meanflow_tune.settings import Settings
from meanflow_tune.time_samplers import TimeSampler, UniformPairs

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class StudentJump(Settings):
    """x_s = x_t + Δ·sg[u]: one evaluation, and off the trajectory while the student is wrong."""

    kind: Literal["student_jump"] = "student_jump"

    def teacher_share(self, progress: float) -> float:
        """The share of a batch whose x_s comes from the teacher's ODE at this progress: none."""
        return 0.0


class TeacherOde(Settings):
    """x_s by the teacher's ODE from x_t: on the trajectory, at the price of its evaluations."""

    kind: Literal["teacher_ode"] = "teacher_ode"
    solver: Solver = Solver(method="heun", steps=2)

    def teacher_share(self, progress: float) -> float:
        """The share of a batch whose x_s comes from the teacher's ODE at this progress: all."""
        return 1.0


class Annealed(Settings):
    """The teacher's ODE for a share of the batch that falls linearly from 1 to 0 at progress `until`."""

    kind: Literal["annealed"] = "annealed"
    solver: Solver = Solver(method="heun", steps=2)
    until: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5

    def teacher_share(self, progress: float) -> float:
        """The share of a batch whose x_s comes from the teacher's ODE at this progress."""
        return max(0.0, 1.0 - progress / self.until)


XSource = Annotated[StudentJump | TeacherOde | Annealed, Field(discriminator="kind")]


class Weighting(Settings):
    """Adaptive weight 1 / (mean square + epsilon)^power of each sample, without gradient."""

    power: Annotated[float, Field(ge=0.0, le=2.0)] = 0.75
    epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3


class Optimizer(Settings):
    """Adam(W) with a linear warm-up over a share of the budget, and clipping of the gradient's norm."""

    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    warmup: Share = 0.05
    decay: Literal["constant", "cosine"] = "cosine"
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0


class Ema(Settings):
    """Moving average of the weights; half-life in images, at most `ramp` of the images seen so far."""

    half_life_images: Annotated[float, Field(gt=0.0)] = 5_000
    ramp: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1

    def decay(self, images: int, batch: int) -> float:
        """The factor of the old average after a step of `batch` images ending at `images` seen."""
        half_life = min(self.half_life_images, self.ramp * images)
        return float(0.5 ** (batch / max(half_life, 1e-8)))


class Budget(Settings):
    """images: length of training; global_batch: images a step over all ranks; rungs: report points."""

    images: Positive
    global_batch: Positive
    rungs: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = (1.0,)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.images < self.global_batch:
            raise ValueError(
                "`budget.images >= budget.global_batch` must hold, but got "
                f"{self.images} and {self.global_batch}."
            )
        if not self.rungs or list(self.rungs) != sorted(set(self.rungs)) or self.rungs[-1] != 1.0:
            raise ValueError(f"budget.rungs must ascend and end in 1.0, but got {self.rungs}.")
        if len(set(self.rung_steps)) != len(self.rungs) or self.rung_steps[0] == 0:
            raise ValueError(
                f"budget.rungs {self.rungs} fall on the same step of {self.steps}; use fewer rungs."
            )
        return self

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.images // self.global_batch

    @property
    def rung_steps(self) -> tuple[int, ...]:
        """The steps after which a trial reports."""
        return tuple(round(share * self.steps) for share in self.rungs)


class Evaluation(Settings):
    """What is measured at a rung, from `samples` latents and labels that all trials of a study share."""

    nfe: tuple[Positive, ...] = (1, 2, 4)
    samples: Annotated[int, Field(ge=20)] = 1024
    latent_seed: int = 20_000
    reference: Solver = Solver(method="rk4", steps=16)
    metrics: tuple[Metric, ...] = (
        TeacherGap(),
        SlicedWasserstein(),
        FrechetPixels(),
        FrechetFeatures(),
    )


class TeacherConfig(Settings):
    """The frozen flow-matching teacher v_phi: trained once, then cached by the hash of all it depends on."""

    model: Model
    optimizer: Optimizer = Optimizer()
    ema: Ema = Ema()
    budget: Budget
    seed: int = 0


class TrialConfig(Settings):
    """Everything that determines a training run. Times: noise at 0, data at 1.

    student_init: weights to start from, drawn from the seed or those of the teacher, whose network
    must then be the same. compile: run the networks of training through torch.compile; steps are
    quicker, but the first trial of a network in a process waits for the compiler, minutes on a CPU.
    """

    data: Data
    teacher: TeacherConfig | None
    model: Model
    student_init: Literal["random", "teacher"] = "random"
    losses: LossMix
    x_source: XSource = StudentJump()
    time_sampler: TimeSampler
    ds_schedule: DsSchedule | None = None
    weighting: Weighting = Weighting()
    optimizer: Optimizer = Optimizer()
    ema: Ema = Ema()
    budget: Budget
    evaluation: Evaluation | None = Evaluation()
    compile: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        active = set(self.losses.active)
        if self.teacher is None and active != {"flow_matching"}:
            raise ValueError(
                f"losses {sorted(active)} need a velocity field, but teacher is null; give a teacher, "
                "or use losses.flow_matching alone."
            )
        if self.student_init == "teacher" and (
            self.teacher is None or self.teacher.model != self.model
        ):
            raise ValueError(
                "student_init 'teacher' needs a teacher with the student's network: make teacher.model "
                "equal to model, or set student_init to 'random'."
            )
        if (self.ds_schedule is not None) != ("tri_consistency" in active):
            raise ValueError(
                "ds_schedule belongs to losses.tri_consistency: give both or neither, but got "
                f"ds_schedule={self.ds_schedule!r} with losses {sorted(active)}."
            )
        if self.teacher is None and self.evaluation is not None:
            raise ValueError(
                "evaluation compares with a teacher, but teacher is null; set evaluation to null."
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data from which `from_dict` builds an equal configuration."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrialConfig":
        """Validate `data`; raises ValueError with one line a fault, naming the setting and its value."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ValueError(describe(error)) from None

    def flat(self) -> dict[str, Any]:
        """Dotted path -> scalar, for tables and trackers; tuples of scalars become one JSON text."""
        return flatten(self.to_dict())

    def content_hash(self, *more: str) -> str:
        """Sixteen hexadecimal digits that name this configuration (and `more`) in a cache."""
        text = json.dumps([self.to_dict(), *more], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def teacher_run(self) -> "TrialConfig":
        """The training run that makes this trial's teacher: flow matching on the diagonal t = s."""
        if self.teacher is None:
            raise ValueError("This configuration has no teacher.")
        return TrialConfig(
            data=self.data,
            teacher=None,
            model=self.teacher.model,
            losses=LossMix(flow_matching=FlowMatching(share=1.0)),
            time_sampler=UniformPairs(diagonal_share=1.0),
            weighting=Weighting(power=0.0),
            optimizer=self.teacher.optimizer,
            ema=self.teacher.ema,
            budget=self.teacher.budget,
            evaluation=None,
            seed=self.teacher.seed,
        )


def describe(error: ValidationError) -> str:
    """One line for the first fault of a configuration, with the count of the others."""
    faults = error.errors()
    first = faults[0]
    where = ".".join(str(part) for part in first["loc"]) or "configuration"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = "" if isinstance(given, Mapping) else f" (got {given!r})"
    if first["type"] == "extra_forbidden":
        message, shown = "is not a setting", ""
    more = f"; and {len(faults) - 1} more" if len(faults) > 1 else ""
    return f"{where}: {message}{shown}{more}"


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys; lists of mappings are numbered, lists of scalars become JSON."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out |= flatten(value, f"{path}.")
        elif (
            isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) for v in value)
        ):
            for index, item in enumerate(value):
                out |= flatten(item, f"{path}.{index}.")
        else:
            out[path] = json.dumps(value) if isinstance(value, list | tuple) else value
    return out


def override(data: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Apply `path=value` settings to a configuration's data. Values are JSON, else taken as text.

    Raises ValueError when a path is not a setting of `data`, naming the nearest that is.
    """
    out: dict[str, Any] = json.loads(json.dumps(data))
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(
                f"--set {setting}: write it as path=value, for example budget.images=40000."
            )
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        *parents, leaf = path.strip().split(".")
        place: Any = out
        for index, part in enumerate([*parents, leaf]):
            if not isinstance(place, dict) or part not in place:
                raise ValueError(
                    f"--set {setting}: `{path}` is not a setting{_nearest(path, out)}."
                )
            if index < len(parents):
                place = place[part]
        place[leaf] = value
    return out


def _nearest(path: str, data: Mapping[str, Any]) -> str:
    known = list(flatten(data))
    inner = {
        ".".join(key.split(".")[:depth]) for key in known for depth in range(1, key.count(".") + 1)
    }
    close = difflib.get_close_matches(path, [*known, *sorted(inner)], n=3, cutoff=0.5)
    return (
        f"; did you mean {' or '.join(f'`{name}`' for name in close)}?"
        if close
        else f"; known: {', '.join(data)}"
    )
