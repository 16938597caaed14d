"""Parts of a configuration: optimiser, moving average, budget, evaluation and teacher."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from meanflow_tune.losses import Solver
from meanflow_tune.metrics import (
    FrechetFeatures,
    FrechetPixels,
    Metric,
    SlicedWasserstein,
    TeacherGap,
)
from meanflow_tune.models import Model
from meanflow_tune.settings import Settings

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # what a column of results.parquet holds
Share = Annotated[float, Field(ge=0.0, le=1.0)]
LabelDropout = Annotated[float, Field(ge=0.0, lt=1.0)]


class Optimizer(Settings):
    """Adam(W) with a linear warm-up over a share of the budget.

    clip_norm: bound of the gradient's norm, None for no clipping.
    """

    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    warmup: Share = 0.05
    decay: Literal["constant", "cosine"] = "cosine"
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
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
    """images: length of training; global_batch: images per step over all ranks; rungs: shares of the
    budget after which a trial reports."""

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
    latent_seed: Seed = 20_000
    reference: Solver = Solver(method="rk4", steps=16)
    metrics: tuple[Metric, ...] = (
        TeacherGap(),
        SlicedWasserstein(),
        FrechetPixels(),
        FrechetFeatures(),
    )


class TeacherConfig(Settings):
    """The frozen flow-matching teacher v_phi: trained once, then cached by the hash of all it depends on.

    label_dropout: the share of labels replaced by a null class, which makes it unconditional too.
    """

    model: Model
    optimizer: Optimizer = Optimizer()
    ema: Ema = Ema()
    budget: Budget
    label_dropout: LabelDropout = 0.0
    seed: Seed = 0
