"""No dead knobs: changing any parameter that a shipped space searches changes the training."""

import math
from typing import Any

import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor

from meanflow_tune.config import TrialConfig
from meanflow_tune.config.overrides import override
from meanflow_tune.core.types import Velocity
from meanflow_tune.search.space.load import known_spaces, load_space
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.tiny_run import NET

SMALL = (
    'data={"kind": "eight_gaussians", "size": 256, "held_out": 64}',
    f"model={NET.model_dump_json()}",
    "student_init=random",
    "budget.images=640",
    "budget.global_batch=64",
    "budget.rungs=[1.0]",
)


def swirl(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
    """A smooth velocity that depends on all of its arguments, fast enough for every clamp to act."""
    return 30.0 * (torch.sin(x + t[:, None]) + x.flip(1))


def draw(space: Any, seed: int, fixed: dict[str, Any]) -> tuple[TrialConfig, optuna.Trial]:
    """A configuration with the parameters `fixed`; others that become needed are drawn."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    study.enqueue_trial(fixed)
    trial = study.ask()
    return space.suggest(trial), trial


def trained(config: TrialConfig) -> Tensor:
    """The averaged weights after ten small steps."""
    small = TrialConfig.from_dict(override(config.to_dict(), SMALL))
    teacher: Velocity = swirl
    run = Run.start(small, World(), small.data.load(), teacher)
    for _ in range(small.budget.steps):
        run.advance(run.objective)
    return torch.cat([weight.flatten() for weight in run.ema.weights.values()])


def others(distribution: Any, value: Any) -> list[Any]:
    """Other values of a parameter: all choices, or one well away from the present one."""
    if isinstance(distribution, CategoricalDistribution):
        return [choice for choice in distribution.choices if choice != value]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        middle = math.sqrt(low * high)
        new = math.sqrt(middle * (high if value < middle else low))
    else:
        middle = (low + high) / 2
        new = (middle + (high if value < middle else low)) / 2
    if isinstance(distribution, IntDistribution):
        return [round(new) if round(new) != value else distribution.low]
    return [new]


def covering_draws(space: Any) -> list[int]:
    """Seeds of draws that together ask for every parameter of the space, found greedily."""
    asked = {seed: set(draw(space, seed, {})[1].params) for seed in range(200)}
    missing = set().union(*asked.values())
    chosen = []
    while missing:
        seed = max(asked, key=lambda seed: len(asked[seed] & missing))
        chosen.append(seed)
        missing -= asked[seed]
    return chosen


# A space with many parameters takes long; the one that runs by default is in the quick tests.
SPACES = [
    pytest.param(name, marks=() if name == "second_order" else pytest.mark.slow)
    for name in known_spaces()
]


@pytest.mark.parametrize("name", SPACES)
def test_every_searched_parameter_changes_the_training(name: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = load_space(name)
    for seed in covering_draws(space):
        config, trial = draw(space, seed, {})
        before = trained(config)
        assert torch.equal(before, trained(config)), "the comparison needs reproducible training"
        for parameter, distribution in trial.distributions.items():
            for value in others(distribution, trial.params[parameter]):
                changed, _ = draw(space, seed, trial.params | {parameter: value})
                dead = torch.equal(before, trained(changed))
                assert not dead, f"{parameter} = {value} has no effect in draw {seed}"
