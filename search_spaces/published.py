"""The published families, each at three learning rates, with and without a second-order share.

Nothing is searched beyond them: `python scripts/tune.py --space published --trials 42 --confirm 2
--confirm-seeds 6` trains all 42, retrains each family at its best learning rate on fresh seeds, and names
the strongest one, which the other spaces are measured against.
"""

from dataclasses import replace
from typing import Any

from optuna import Trial

from meanflow_tune.config import TrialConfig, ramps_end
from search_spaces._digits import FIXED, OBJECTIVE, optimizer
from search_spaces._families import FAMILIES as RECIPES
from search_spaces._families import at_three_rates
from search_spaces._question import QUESTION as SECOND_ORDER

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
    "Find the strongest published way to train an average velocity on the digits, and what a "
    "second-order share of 0.1 changes in each."
)

BASELINES: dict[str, dict[str, Any]] = {}
FAMILIES: dict[str, list[str]] = {}
REFERENCE: list[str] = []
SOURCES = {name: family.source for name, family in RECIPES.items()}
for _recipe in RECIPES:
    for _second_order in (False, True):
        _name = f"{_recipe}_second_order" if _second_order else _recipe
        _runs = at_three_rates(_name, {"family": _recipe, "second_order": _second_order})
        BASELINES |= _runs
        FAMILIES[_name] = list(_runs)
        REFERENCE += [] if _second_order else list(_runs)

# Each pair of families at the best learning rate of either.
QUESTION = replace(SECOND_ORDER, families={name: f"{name}_second_order" for name in RECIPES})
RAMPS_END = ramps_end


def suggest(trial: Trial) -> TrialConfig:
    """One family at one learning rate, with or without the share."""
    family = RECIPES[trial.suggest_categorical("family", list(RECIPES))]
    settings = family.settings(trial.suggest_categorical("second_order", [False, True]))
    rate = trial.suggest_float("optimizer/learning_rate", 1e-3, 1e-2, log=True)
    return TrialConfig(**FIXED, **settings, optimizer=optimizer(rate))
