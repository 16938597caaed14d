"""Samplers on a table: each suggestion is mapped to an unused row.

uniform (random search): any unused row.
ratio (TPE): the unused row with the largest ratio l/g, which TPE maximises, as the product over its
    independently modelled groups of parameters.
nearest (other samplers): the unused row nearest to the suggestion. Random search is then mapped the
    same way, because rows in the middle of the ranges are nearest to most suggestions, and may be better.

Consequences for a comparison. Rows run out: all searches end alike when they start nearly as many trials
as there are rows. A model can only choose among rows drawn at random, and so cannot refine a good
configuration; and the nearest of some hundred rows is far from a suggestion of ten parameters, so that
samplers resemble random search. Both reduce the advantage of a model. TPE itself considers 24 draws from
l per group, here all rows, which is greedier. The surrogate has none of these flaws, only those of its
forest.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from benchmarks.replay.table import Curve, Table, distance
from meanflow_tune.search.seeds import draw_seed

Mapped = Literal["uniform", "ratio", "nearest"]
ROW = "row"
FIXED = "fixed_params"  # Optuna's attribute for the parameters of an enqueued trial
LIAR = "tpe:relative_params"  # TPE's attribute for the parameters of a running trial


class RowSuggester:
    """A space's `suggest` that returns rows of a table; one per simulated search.

    space: draws what a sampler suggests; needed for the mapping "nearest" only.
    """

    def __init__(
        self, table: Table, mapping: Mapped, seed: int, space: Callable[[Any], Any] | None
    ) -> None:
        if mapping == "nearest" and space is None:
            raise ValueError(
                'the mapping "nearest" needs a space, from which suggestions are drawn'
            )
        self._table, self._mapping, self._seed, self._space = table, mapping, seed, space
        self._used: set[int] = set()

    def __call__(self, trial: Trial) -> dict[str, Any]:
        storage, study = trial.storage, trial.study
        frozen = study.get_trials(deepcopy=False)[trial.number]
        fixed = frozen.system_attrs.get(FIXED)
        index = self._row_of(fixed) if fixed is not None else self._choose(study, frozen)
        self._used.add(index)
        row = self._table.rows[index]
        for name, value in row.params.items():
            distribution = row.distributions[name]
            internal = distribution.to_internal_repr(value)
            storage.set_trial_param(frozen._trial_id, name, internal, distribution)
        if any(key.startswith(LIAR) for key in frozen.system_attrs):
            storage.set_trial_system_attr(frozen._trial_id, f"{LIAR}:0", json.dumps(row.params))
        return {ROW: index} | budget(self._table)

    def curve(self, config: Mapping[str, Any]) -> Curve:
        """The curve of a configuration that this object returned."""
        row: int = config[ROW]
        return self._table.rows[row].curve

    def _row_of(self, params: Mapping[str, Any]) -> int:
        return next(i for i, row in enumerate(self._table.rows) if row.params == params)

    def _choose(self, study: Study, trial: FrozenTrial) -> int:
        baselines = set(self._table.baselines)
        unused = [
            i
            for i, row in enumerate(self._table.rows)
            if i not in self._used and row.baseline not in baselines
        ]
        if not unused:
            raise LookupError("all rows of the table are used")
        draw = draw_seed(self._seed, trial.number, ROW)
        if self._mapping == "nearest":
            assert self._space is not None
            asked = Proposal(study, trial)
            self._space(asked)
            params, distributions = asked.params, self._table.distributions | asked.distributions
            return min(
                unused, key=lambda i: distance(params, self._table.rows[i].params, distributions)
            )
        if self._mapping == "ratio":
            scores = log_ratios(study, trial, self._table, unused)
            if scores is not None:
                return unused[int(np.argmax(scores))]
        # The same draw for all searches with this seed, so that they start alike.
        return unused[draw % len(unused)]


def budget(table: Table) -> dict[str, Any]:
    """The part of a configuration that gives the ledger the last rung."""
    return {"budget": {"images": table.rungs[-1], "global_batch": 1}}


def log_ratios(
    study: Study, trial: FrozenTrial, table: Table, rows: list[int]
) -> np.ndarray | None:
    """log l - log g of each of the rows, summed over the groups of parameters that TPE models.

    A group counts for the rows that have all its parameters. None while TPE draws at random.
    """
    sampler = study.sampler
    with caught_densities() as caught:
        space = sampler.infer_relative_search_space(study, trial)
        sampler.sample_relative(study, trial, space)
        for name, distribution in table.distributions.items():
            if name not in space and not distribution.single():
                sampler.sample_independent(study, trial, name, distribution)
    if not caught:
        return None
    scores = np.zeros(len(rows))
    for names, below, above in caught:
        having = [k for k, i in enumerate(rows) if all(n in table.rows[i].params for n in names)]
        if not having:
            continue
        points = {
            name: np.array(
                [
                    table.rows[rows[k]]
                    .distributions[name]
                    .to_internal_repr(table.rows[rows[k]].params[name])
                    for k in having
                ]
            )
            for name in names
        }
        scores[having] += below.log_pdf(points) - above.log_pdf(points)
    return scores


@contextmanager
def caught_densities() -> Iterator[list[tuple[list[str], Any, Any]]]:
    """(parameters, l, g) of every draw by TPE inside the block; the draws themselves are meaningless.

    They are caught in `TPESampler._compute_acquisition_func`, a private method of Optuna; a test fails
    if it is removed. The class itself is patched, because samplers are made and wrapped elsewhere: not
    thread-safe.
    """
    caught: list[tuple[list[str], Any, Any]] = []
    compute = TPESampler._compute_acquisition_func

    def catch(self: TPESampler, samples: Any, below: Any, above: Any) -> np.ndarray:
        caught.append((list(samples), below, above))
        return np.zeros(len(next(iter(samples.values()))))

    TPESampler._compute_acquisition_func = catch  # type: ignore[method-assign, assignment]
    try:
        yield caught
    finally:
        TPESampler._compute_acquisition_func = compute  # type: ignore[method-assign]


class Proposal:
    """A trial that asks the study's sampler without storing the answers."""

    def __init__(self, study: Study, trial: FrozenTrial) -> None:
        self._study, self._trial = study, trial
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        sampler = study.sampler
        self._space = sampler.infer_relative_search_space(study, trial)
        self._relative = sampler.sample_relative(study, trial, self._space)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._ask(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._ask(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._ask(name, CategoricalDistribution(choices))

    def _ask(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self.params:
            if name in self._relative and self._space[name] == distribution:
                value = self._relative[name]
            else:
                sampler = self._study.sampler
                value = sampler.sample_independent(self._study, self._trial, name, distribution)
            self.params[name], self.distributions[name] = value, distribution
        return self.params[name]
