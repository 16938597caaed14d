"""TrialConfig: the one description of a training run, resolved, validated and immutable.

A configuration is data: `to_dict` is what Ray ships, what MLflow logs, what a checkpoint stores and
what `scripts/train.py --config` runs.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

import torch
from pydantic import ValidationError, model_validator
from torch import Generator, nn

from meanflow_tune.config.compilation import CompileChoice, choose
from meanflow_tune.config.overrides import flatten, override
from meanflow_tune.config.parts import (
    Budget,
    Ema,
    Evaluation,
    LabelDropout,
    Optimizer,
    Seed,
    TeacherConfig,
)
from meanflow_tune.config.sources import Guidance, StudentJump, XSource
from meanflow_tune.core.jets import Precision
from meanflow_tune.core.random import fold
from meanflow_tune.data import Data
from meanflow_tune.ds_schedules import DsSchedule
from meanflow_tune.losses import FlowMatching, LossMix
from meanflow_tune.models import Model
from meanflow_tune.settings import Settings, first_fault
from meanflow_tune.time_samplers import TimeSampler, UniformPairs
from meanflow_tune.weightings import Adaptive, AnyWeighting

# Of ds / (s - t), by the relative rounding: 4e-3 in bfloat16, 5e-4 in TF32.
SMALLEST_RATIO = {"bfloat16": 0.1, "tf32": 0.0125}
# Settings that earlier revisions did not store; their defaults are what those did.
_ADDED = {"channels_last": False, "dropout_in_targets": "same"}
COMPILED_DROPOUT = (
    "{where}: compiled code cannot give all passes of a step the same masks of dropout; set compile to "
    "false, or the dropout to 0."
)


class TrialConfig(Settings):
    """Everything that determines a training run. Times: noise at 0, data at 1.

    velocity_source: "teacher" takes v(x_t, t) and v(x_s, s) from the frozen teacher (distillation).
    "from_scratch" takes x_1 - x_0 at t, in targets and as the tangent of D, which is unbiased there
    because every target is linear in it; at s it takes sg[u_EMA(x_s, s, s)], the moving average of
    the student as its own teacher, which the diagonal t = s trains by flow matching.

    guidance: baked into the velocities. That of a teacher needs teacher.label_dropout. From scratch
    it needs label_dropout, and the target on the path is MeanFlow's (arXiv 2505.13447, section 4.2,
    with κ = 0): scale·(x_1 - x_0) + (1 - scale)·sg[u(x_t, t, t)] without label.

    label_dropout: the share of labels replaced by the null class, of index `classes`. student_init:
    weights to start from, drawn from the seed or those of the teacher, whose network must then be
    the same. With from_scratch a teacher serves these weights and the evaluation only.

    precision: "bfloat16" runs the networks of training under autocast, with matrix products in bfloat16
    and all else in float32. "tf32" computes the products of float32 matrices and convolutions of a
    training step in TF32, on GPUs that have it; "float32" never does. compile: the networks of training
    run through torch.compile; steps are quicker, but the first trial of a network in a process waits for
    the compiler, up to minutes on a CPU. "auto" compiles where the trial is long enough for that, see
    `compilation`. channels_last: their images are stored with the channels last, for convolutions.

    dropout_in_targets: where the network has dropout (`model.dropout`), the passes that make the targets
    have the masks of the prediction ("same"), or no dropout, as in evaluation ("none").
    """

    data: Data
    teacher: TeacherConfig | None
    model: Model
    student_init: Literal["random", "teacher"] = "random"
    velocity_source: Literal["teacher", "from_scratch"] = "teacher"
    guidance: Guidance | None = None
    label_dropout: LabelDropout = 0.0
    losses: LossMix
    x_source: XSource = StudentJump()
    time_sampler: TimeSampler
    ds_schedule: DsSchedule | None = None
    weighting: AnyWeighting = Adaptive()
    optimizer: Optimizer = Optimizer()
    ema: Ema = Ema()
    budget: Budget
    evaluation: Evaluation | None = Evaluation()
    precision: Precision = "float32"
    compile: bool | Literal["auto"] = False
    channels_last: bool = False
    dropout_in_targets: Literal["same", "none"] = "same"
    seed: Seed = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_velocity()
        self._check_guidance()
        self._check_differences()
        self._check_precision()
        self._check_dropout()
        if self.student_init == "teacher" and (
            self.teacher is None or self.teacher.model != self.model
        ):
            raise ValueError(
                "student_init 'teacher' needs a teacher with the student's network: make teacher.model "
                "equal to model, or set student_init to 'random'."
            )
        if (
            self.student_init == "teacher"
            and self.label_dropout > 0.0
            and self.teacher is not None
            and self.teacher.label_dropout == 0.0
        ):
            raise ValueError(
                "student_init 'teacher' with label_dropout > 0 needs a teacher with a null class, but "
                "teacher.label_dropout is 0; set it to 0.1, or set student_init to 'random'."
            )
        if self.teacher is None and self.evaluation is not None:
            lacking = [m.kind for m in self.evaluation.metrics if m.needs_teacher]
            if lacking:
                raise ValueError(
                    f"evaluation.metrics {', '.join(lacking)} compare with a teacher, but teacher is "
                    "null; leave them out, or give a teacher."
                )
        return self

    def _check_velocity(self) -> None:
        if self.velocity_source == "teacher":
            if self.teacher is None:
                raise ValueError(
                    "velocity_source 'teacher' needs a teacher, but teacher is null; give one, or set "
                    "velocity_source to 'from_scratch'."
                )
            return
        if self.time_sampler.diagonal_share == 0.0:
            raise ValueError(
                "velocity_source 'from_scratch' learns the velocity where t = s, so that "
                "`time_sampler.diagonal_share > 0` must hold, but it is 0; 0.25 to 0.75 are usual."
            )
        if self.x_source.kind != "student_jump":
            raise ValueError(
                f"x_source {self.x_source.kind!r} integrates a teacher, which velocity_source "
                "'from_scratch' has not; take 'student_jump'."
            )
        tri = self.losses.tri_consistency
        if tri is not None and tri.second_part == "teacher":
            raise ValueError(
                "losses.tri_consistency.second_part 'teacher' integrates a teacher, which "
                "velocity_source 'from_scratch' has not; take 'student'."
            )
        if self.teacher is not None and self.evaluation is None and self.student_init == "random":
            raise ValueError(
                "teacher is used by nothing: with velocity_source 'from_scratch' it serves the "
                "evaluation and student_init only; set teacher to null."
            )

    def _check_guidance(self) -> None:
        distilled = self.velocity_source == "teacher"
        if self.label_dropout > 0.0 and distilled:
            raise ValueError(
                f"label_dropout {self.label_dropout:g} belongs to velocity_source 'from_scratch'; for "
                "a guided teacher set teacher.label_dropout."
            )
        if self.guidance is None:
            return
        dropouts = {} if distilled else {"label_dropout": self.label_dropout}
        if self.teacher is not None:
            dropouts["teacher.label_dropout"] = self.teacher.label_dropout
        for name, dropout in dropouts.items():
            if dropout == 0.0:
                none = " (a scale of 1 is no guidance: null)" if self.guidance.scale == 1.0 else ""
                raise ValueError(
                    f"guidance needs a velocity without label, so that `{name} > 0` must hold, but it "
                    f"is 0; 0.1 is usual{none}."
                )

    def _check_differences(self) -> None:
        losses = self.losses
        if (self.ds_schedule is not None) != losses.differences:
            raise ValueError(
                "ds_schedule belongs to losses.tri_consistency and to losses.derivative "
                "'finite_difference': give it with one of them and only then, but got "
                f"ds_schedule={self.ds_schedule!r} with losses {sorted(losses.active)} and derivative "
                f"{losses.derivative.kind!r}."
            )
        tri, schedule = losses.tri_consistency, self.ds_schedule
        if tri is None or tri.second_part == "teacher" or schedule is None:
            return
        gap = torch.tensor([0.1, 0.5, 1.0])
        if all(bool((schedule.ratio(p, gap) == 1.0).all()) for p in (0.0, 0.25, 0.5, 0.75, 1.0)):
            if tri.split == "start":
                raise ValueError(
                    "losses.tri_consistency.split 'start' is flow matching where ds = s - t, but "
                    f"ds_schedule {schedule!r} never gives less; take losses.flow_matching."
                )
            raise ValueError(
                "losses.tri_consistency.second_part 'student' says nothing where ds = s - t, but "
                f"ds_schedule {schedule!r} never gives less; 0.5 is the shortcut form."
            )

    def _check_precision(self) -> None:
        if self.precision == "float32":
            return
        if self.losses.derivative.kind == "finite_difference":
            raise ValueError(
                f"losses.derivative 'finite_difference' needs precision 'float32': in {self.precision} "
                f"rounding exceeds the difference, but precision is {self.precision!r}; take 'exact'."
            )
        if self.losses.tri_consistency is None or self.ds_schedule is None:
            return
        gap = torch.tensor([0.1, 0.5, 1.0])
        least = min(float(self.ds_schedule.ratio(p, gap).min()) for p in (0.0, 0.5, 1.0))
        smallest = SMALLEST_RATIO[self.precision]
        if least < smallest:
            raise ValueError(
                "losses.tri_consistency divides a difference by ds / (s - t), which magnifies the rounding "
                f"of precision {self.precision!r}: `ratio >= {smallest}` must hold, but "
                f"ds_schedule falls to {least:.3g}; take precision 'float32'."
            )

    def _check_dropout(self) -> None:
        # Networks from outside the package need not have this setting; `Objective` looks at their layers.
        dropout = getattr(self.model, "dropout", None)
        if dropout is not None and dropout > 0.0 and self.compile is True:
            raise ValueError(COMPILED_DROPOUT.format(where=f"model.dropout {dropout:g}"))
        if dropout == 0.0 and self.dropout_in_targets == "none":
            raise ValueError(
                "dropout_in_targets 'none' changes nothing where model.dropout is 0; give it with "
                "model.dropout > 0, or leave it at 'same'."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data from which `from_dict` builds an equal configuration."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], settings: Iterable[str] = ()) -> "TrialConfig":
        """Validate `data`; raises ValueError with one line that names the first fault and its value.

        Data stored by earlier revisions mean what they meant: their diagonal lay at a random end.
        settings: `path=value` changes of them, which mean what they mean now.
        """
        sampler = data.get("time_sampler")
        # As `to_dict` writes it, not by hand.
        complete = data.keys() | _ADDED.keys() >= cls.model_fields.keys()
        if complete and isinstance(sampler, Mapping) and "diagonal_at" not in sampler:
            data = {**data, "time_sampler": {**sampler, "diagonal_at": "random"}}
        changes = tuple(settings)
        try:
            return cls.model_validate(override(data, changes) if changes else data)
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None

    def flat(self) -> dict[str, Any]:
        """Dotted path -> scalar, for tables and trackers; tuples of scalars become one JSON text."""
        return flatten(self.to_dict())

    def content_hash(self, *more: str) -> str:
        """Sixteen hexadecimal digits that name this configuration (and `more`) in a cache."""
        # Without what an earlier revision did not store, so that its caches stay.
        settings = {n: x for n, x in self.to_dict().items() if n not in _ADDED or x != _ADDED[n]}
        text = json.dumps([settings, *more], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def compile_choice(self) -> CompileChoice:
        """Whether the networks of training are compiled, and why."""
        return choose(self.compile, self.model, self.budget.steps)

    @property
    def has_null_class(self) -> bool:
        """Whether the student embeds one more class, which stands for no label."""
        begins_with_one = (
            self.student_init == "teacher"
            and self.teacher is not None
            and self.teacher.label_dropout > 0.0
        )
        return self.label_dropout > 0.0 or begins_with_one

    def network(
        self, shape: tuple[int, ...], classes: int | None, generator: Generator
    ) -> nn.Module:
        """The student's network for samples of `shape` (*D), its weights drawn from `generator`.

        Raises ValueError where labels are to be dropped and `classes` is None.
        """
        if not self.has_null_class:
            return self.model.build(shape, classes, generator)
        if classes is None:
            raise ValueError(
                "label_dropout (or teacher.label_dropout) > 0 needs data with classes, but data "
                f"{self.data.kind!r} has none; set it to 0."
            )
        return self.model.build(shape, classes + 1, generator)

    def teacher_run(self) -> "TrialConfig":
        """The training run that makes this trial's teacher: flow matching on the diagonal t = s."""
        if self.teacher is None:
            raise ValueError("This configuration has no teacher.")
        return TrialConfig(
            data=self.data,
            teacher=None,
            model=self.teacher.model,
            velocity_source="from_scratch",
            label_dropout=self.teacher.label_dropout,
            losses=LossMix(flow_matching=FlowMatching(share=1.0)),
            # Either end of a pair of uniform times: uniform.
            time_sampler=UniformPairs(diagonal_share=1.0, diagonal_at="random"),
            weighting=Adaptive(power=0.0),
            optimizer=self.teacher.optimizer,
            ema=self.teacher.ema,
            budget=self.teacher.budget,
            evaluation=None,
            # With the same seed a teacher and its student would draw the same noise and data.
            seed=fold(self.teacher.seed, "teacher"),
        )
