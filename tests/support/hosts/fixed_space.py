"""A space of fixed configurations: HOSTS_TRIALS baselines, and nothing left to sample.

Baselines come first, in this order, and no rung stops them, so that trial n has the same configuration
and the same value in every run, whatever happens to it.
"""

import os

from optuna import Trial

from meanflow_tune.config import Budget, Ema, Evaluation, Optimizer, TeacherConfig, TrialConfig
from meanflow_tune.data import EightGaussians
from meanflow_tune.losses import LossMix
from meanflow_tune.metrics import TeacherGap
from meanflow_tune.models import MLP
from meanflow_tune.time_samplers import UniformPairs

GOAL = "Come through faults with the values of an undisturbed run."
OBJECTIVE = "geometric_mean(teacher_gap@1,teacher_gap@2)"
NET = MLP(width=16, blocks=1, time_features=8, condition_width=16)
STEPS, BATCH = 100, 64

TRIALS = int(os.environ["HOSTS_TRIALS"])  # a search runs all baselines
BASELINES = {f"rate_{n:03d}": {"optimizer/learning_rate": 1e-3 * 1.005**n} for n in range(TRIALS)}
REFERENCE = ("rate_000",)


def suggest(trial: Trial) -> TrialConfig:
    """A hundred steps with four rungs; only the learning rate differs."""
    images = STEPS * BATCH
    return TrialConfig(
        data=EightGaussians(size=512, held_out=128),
        teacher=TeacherConfig(model=NET, budget=Budget(images=6400, global_batch=64)),
        model=NET,
        losses=LossMix.mixture(backward=0.5, forward=0.4, second_order=0.1),
        time_sampler=UniformPairs(),
        optimizer=Optimizer(
            learning_rate=trial.suggest_float("optimizer/learning_rate", 1e-3, 1e-2)
        ),
        ema=Ema(half_life_images=500),
        budget=Budget(images=images, global_batch=BATCH, rungs=(0.25, 0.5, 0.75, 1.0)),
        evaluation=Evaluation(nfe=(1, 2), samples=64, metrics=(TeacherGap(),)),
    )
