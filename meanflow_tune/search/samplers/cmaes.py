"""CMA-ES (Hansen, arXiv 1604.00772, by the package `cmaes`) whose state is replayed from the study.

Optuna's sampler pickles its optimizer into the study: anyone who can write the study's file can run
code in the driver, and a kill between its writes leaves a torn pickle. Here each trial stores one
small record, in one write, before any of its parameters: its generation and, for the first trial of a
generation, the numbers of the trials that the step was made from, best first. Every ask rebuilds the
optimizer by repeating these steps, so it is the same after a kill, on resume, and on other hosts.

Only ranks enter CMA-ES (equation 46 and before), so trials without a comparable value count too: a
pruned trial ranks behind every completed one, by how far it came, and an infeasible one behind all.
Optuna's sampler ignores pruned trials and constraints.
"""

import hashlib
import importlib
import importlib.util
import json
import math
from collections.abc import Mapping
from typing import Any

from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, CategoricalDistribution, distribution_to_json
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.search.store.trials import FINISHED

RECORD = "cma:step"  # system attribute: {"space", "generation"} and "start" or "told"
SIGMA = 1.0 / 6.0  # of the unit cube, as in Optuna


def is_installed() -> bool:
    """Whether the package `cmaes` can be imported."""
    return importlib.util.find_spec("cmaes") is not None


class ReplayedCmaEs(BaseSampler):
    """Joint draws for one ask, from a normal distribution that starts at the best trial so far.

    seed: of this ask's draw. Parameters that are not numeric, or not in every trial, are drawn
    independently.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        trials = study.get_trials(deepcopy=False)
        space = intersection_search_space(trials, include_pruned=True)
        return {
            name: distribution
            for name, distribution in space.items()
            if not distribution.single() and not isinstance(distribution, CategoricalDistribution)
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        trials = {one.number: one for one in study.get_trials(deepcopy=False)}
        space = _fingerprint(search_space)
        # The trial itself has a record if a kill interrupted its first ask.
        records = {
            number: record
            for number, one in sorted((trials | {trial.number: trial}).items())
            if (record := one.system_attrs.get(RECORD)) is not None and record["space"] == space
        }
        if trial.number not in records:
            record = _next_record(trials, records, len(search_space), study.direction)
            if record is None:
                return {}
            record = {"space": space, **record}
            study._storage.set_trial_system_attr(trial._trial_id, RECORD, record)
            records[trial.number] = record
        transform = _SearchSpaceTransform(search_space, transform_0_1=True)
        optimizer = self._replay(transform, trials, records, records[trial.number]["generation"])
        return transform.untransform(optimizer.ask())

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _replay(
        self,
        transform: _SearchSpaceTransform,
        trials: Mapping[int, FrozenTrial],
        records: Mapping[int, Mapping[str, Any]],
        generation: int,
    ) -> Any:
        """The optimizer after the steps up to a generation, with this ask's seed."""
        start = next(record["start"] for record in records.values() if "start" in record)
        steps = {
            record["generation"]: record["told"] for record in records.values() if "told" in record
        }
        dimensions = len(transform.bounds)
        optimizer = importlib.import_module("cmaes").CMA(
            mean=transform.transform(trials[start].params),
            sigma=SIGMA,
            bounds=transform.bounds,
            seed=self._seed,
            n_max_resampling=10 * dimensions,
            population_size=population_size(dimensions),
        )
        for step in range(1, generation + 1):
            ranked = [transform.transform(trials[number].params) for number in steps[step]]
            optimizer.tell([(point, float(rank)) for rank, point in enumerate(ranked)])
        return optimizer


def population_size(dimensions: int) -> int:
    """Number of trials per step (equation 48)."""
    return 4 + math.floor(3.0 * math.log(dimensions))


def rank_key(trial: FrozenTrial, direction: StudyDirection) -> tuple[float, ...]:
    """Smaller is better: completed by value, pruned by images and value, infeasible by violation."""
    sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
    violation = math.fsum(max(0.0, value) for value in trial.constraints.values())
    if violation > 0.0:
        return (2.0, violation, 0.0, trial.number)
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None
        return (0.0, sign * trial.value, 0.0, trial.number)
    if (step := trial.last_step) is None:
        return (1.0, 0.0, 0.0, trial.number)
    value = sign * trial.intermediate_values[step]
    return (1.0, -float(step), math.inf if math.isnan(value) else value, trial.number)


def _next_record(
    trials: Mapping[int, FrozenTrial],
    records: Mapping[int, Mapping[str, Any]],
    dimensions: int,
    direction: StudyDirection,
) -> dict[str, Any] | None:
    """The record of a new trial: a start, a member of a generation, or a step; None without trials."""
    if not records:
        finished = [trial for trial in trials.values() if trial.state in FINISHED]
        if not finished:
            return None
        best = min(finished, key=lambda trial: rank_key(trial, direction))
        return {"generation": 0, "start": best.number}
    generation = max(record["generation"] for record in records.values())
    solutions = [
        trials[number]
        for number, record in records.items()
        if record["generation"] == generation and trials[number].state in FINISHED
    ][: population_size(dimensions)]
    if len(solutions) < population_size(dimensions):
        return {"generation": generation}
    ranked = sorted(solutions, key=lambda trial: rank_key(trial, direction))
    return {"generation": generation + 1, "told": [trial.number for trial in ranked]}


def _fingerprint(space: Mapping[str, BaseDistribution]) -> str:
    """A hash of the parameters that are drawn jointly; when it changes, CMA-ES restarts."""
    distributions = {
        name: distribution_to_json(distribution) for name, distribution in sorted(space.items())
    }
    return hashlib.sha256(json.dumps(distributions).encode()).hexdigest()[:16]
