"""The search space of `benchmark.py search`: short trials of 300 steps on eight Gaussians.

Eight unconditional parameters, whose names Ray Tune accepts, too.
"""

from typing import Any

from meanflow_tune.config import (
    Adaptive,
    Budget,
    Ema,
    Evaluation,
    Optimizer,
    TeacherConfig,
    TrialConfig,
)
from meanflow_tune.data import EightGaussians
from meanflow_tune.losses import LossMix
from meanflow_tune.metrics import TeacherGap
from meanflow_tune.models import MLP
from meanflow_tune.time_samplers import LogitNormalPairs

GOAL = "Measure what a search costs in addition to the training of its trials."
OBJECTIVE = "teacher_gap@1"
METRIC = OBJECTIVE
BATCH, STEPS = 64, 300
MODEL = MLP(width=64, blocks=2)
TEACHER = TeacherConfig(
    model=MODEL,
    optimizer=Optimizer(learning_rate=2e-3),
    budget=Budget(images=32_000, global_batch=64),
)

BASELINES: dict[str, dict[str, Any]] = {
    "plain": {
        "learning_rate": 1e-3,
        "warmup": 0.05,
        "clip_norm": 1.0,
        "ema_ramp": 0.1,
        "power": 0.75,
        "mean": 0.4,
        "std": 1.0,
        "diagonal_share": 0.25,
    }
}


def suggest(trial: Any) -> TrialConfig:
    """A short training run: backward MeanFlow from the teacher's weights."""
    return TrialConfig(
        data=EightGaussians(),
        teacher=TEACHER,
        model=MODEL,
        student_init="teacher",
        losses=LossMix.mixture(backward=1.0),
        optimizer=Optimizer(
            learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
            warmup=trial.suggest_float("warmup", 0.0, 0.2),
            clip_norm=trial.suggest_float("clip_norm", 0.3, 3.0, log=True),
        ),
        ema=Ema(ramp=trial.suggest_float("ema_ramp", 0.02, 0.5, log=True)),
        weighting=Adaptive(power=trial.suggest_float("power", 0.0, 1.0)),
        time_sampler=LogitNormalPairs(
            mean=trial.suggest_float("mean", -0.5, 1.0),
            std=trial.suggest_float("std", 0.8, 2.0),
            diagonal_share=trial.suggest_float("diagonal_share", 0.1, 0.5),
        ),
        budget=Budget(images=BATCH * STEPS, global_batch=BATCH, rungs=(0.25, 0.5, 1.0)),
        evaluation=Evaluation(nfe=(1,), samples=256, metrics=(TeacherGap(),)),
    )
