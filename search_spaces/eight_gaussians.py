"""The parameters of second_order on eight Gaussians in the plane, where a trial takes seconds.

Made to be run through and replayed: `tune.py --space eight_gaussians --sampler qmc --scheduler none`,
then `benchmark.py replay`. The data has no labels, so metrics that need a classifier are left out.
"""

from optuna import Trial

from meanflow_tune.config import Budget, Evaluation, Optimizer, TeacherConfig, TrialConfig
from meanflow_tune.data import EightGaussians
from meanflow_tune.metrics import SlicedWasserstein, TeacherGap
from meanflow_tune.models import MLP
from search_spaces import second_order
from search_spaces._families import DIMENSIONS
from search_spaces.second_order import (
    FAMILIES,
    OBJECTIVE,
    QUESTION,
    RAMPS_END,
    REFERENCE,
    SOURCES,
)

__all__ = [
    "BASELINES",
    "FAMILIES",
    "GOAL",
    "OBJECTIVE",
    "QUESTION",
    "RAMPS_END",
    "REFERENCE",
    "SOURCES",
    "suggest",
]

GOAL = (
    "Find out, on a toy that can be run through often, which sampler and scheduler find good mixtures "
    "of second-order, backward, forward and tri-consistency losses with the least training."
)

# The published constants are on the sum over the dimensions, of which a point of the plane has two.
BASELINES = {
    name: params | {"weighting/epsilon": params["weighting/epsilon"] * DIMENSIONS / 2}
    for name, params in second_order.BASELINES.items()
}
MODEL = MLP(width=32, blocks=2)
_FIXED = {
    "data": EightGaussians(),
    "model": MODEL,
    "teacher": TeacherConfig(
        model=MODEL,
        optimizer=Optimizer(learning_rate=2e-3),
        budget=Budget(images=192_000, global_batch=128),
    ),
    "budget": Budget(images=38_400, global_batch=128, rungs=(0.1, 0.25, 0.5, 1.0)),
    "evaluation": Evaluation(metrics=(TeacherGap(), SlicedWasserstein())),
}


def suggest(trial: Trial) -> TrialConfig:
    """A configuration of second_order, moved to the toy."""
    return TrialConfig.model_validate(dict(second_order.suggest(trial)) | _FIXED)
