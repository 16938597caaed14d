"""Which parameters decided how good a trial is: importance, and best values at a bound of their range.

Values are compared at one rung, the last that most trials reached: final values are of the trials that
early stopping spared, and would hide what it stopped.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from meanflow_tune.records import TrialRecord
from meanflow_tune.search.errors import SpaceError
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.pareto import places
from meanflow_tune.search.space.draws import Suggest, draw_fixed

FEWEST = 16  # trials, below which nothing is said
MOST = 2000  # trials, evenly spaced among all: more take minutes, and change the shares by little
REACHED = 0.75  # of the trials that a comparable rung must have
TOP = 5  # trials that PED-ANOVA should find above its quantile, by its own documentation
LARGEST_QUANTILE = 0.35
EDGE = 0.1  # of a range, in its own scale


@dataclass(frozen=True)
class Boundary:
    """The best trials lie at an end of a parameter's range, so that better values may lie beyond it.

    bound: low or high end; typical: the median of `count` best trials that have the parameter.
    """

    name: str
    at: str
    bound: float
    typical: float
    count: int


@dataclass(frozen=True)
class Influence:
    """images: at which `count` trials are compared; importances: parameter -> its share of all, the
    largest first; boundaries: in the same order. quantile: of the best trials that importances explain."""

    images: int
    count: int
    quantile: float
    importances: dict[str, float]
    boundaries: tuple[Boundary, ...]


@dataclass(frozen=True)
class _Row:
    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    values: tuple[float, ...]


def influence(
    records: Sequence[TrialRecord], objectives: Objectives, suggest: Suggest
) -> Influence | None:
    """Importance by PED-ANOVA (Watanabe et al., arXiv 2304.10255; conditional parameters: arXiv 2601.20800).

    suggest: of the space, which tells the range of each parameter. At most MOST trials are looked at;
    None for fewer than FEWEST that can be compared.
    """
    images = comparable_rung(records)
    if images is None:
        return None
    every = max(1, math.ceil(len(records) / MOST))
    rows = [
        row for record in records[::every] if (row := _row(record, images, suggest)) is not None
    ]
    if len(rows) < FEWEST:
        return None
    quantile = min(LARGEST_QUANTILE, max(0.1, TOP / len(rows)))
    importances = _importances(rows, objectives, quantile)
    best = _best(rows, objectives, max(TOP, math.ceil(quantile * len(rows))))
    found = {one.name: one for one in _boundaries(best)}
    ordered = tuple(found[name] for name in importances if name in found)
    return Influence(images, len(rows), quantile, importances, ordered)


def comparable_rung(records: Sequence[TrialRecord]) -> int | None:
    """Images of the last rung that REACHED of all trials with a report have passed; None without any."""
    reports = [{report.images for report in record.reports} for record in records if record.reports]
    every = sorted({images for own in reports for images in own}, reverse=True)
    enough = (
        images
        for images in every
        if sum(images in own for own in reports) >= REACHED * len(reports)
    )
    return next(enough, None)


def _row(record: TrialRecord, images: int, suggest: Suggest) -> _Row | None:
    place = next((k for k, report in enumerate(record.reports) if report.images == images), None)
    if place is None or place >= len(record.rung_values) or not record.params:
        return None
    try:
        drawn = draw_fixed(suggest, record.params)
    except SpaceError:  # a trial of an earlier space
        return None
    return _Row(drawn.params, drawn.distributions, record.rung_values[place])


def _importances(rows: Sequence[_Row], objectives: Objectives, quantile: float) -> dict[str, float]:
    from optuna.importance import PedAnovaImportanceEvaluator  # with it scikit-learn: a second

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(), directions=list(objectives.directions)
    )
    trials = [
        create_trial(
            state=TrialState.COMPLETE,
            params=row.params,
            distributions=row.distributions,
            values=list(row.values),
        )
        for row in rows
    ]
    study.add_trials(trials)
    with warnings.catch_warnings():  # about few trials, which the caller says
        warnings.simplefilter("ignore")
        evaluator = PedAnovaImportanceEvaluator(target_quantile=quantile)
        found = evaluator.evaluate(study)
    total = math.fsum(found.values())
    if not total > 0.0:
        return {}
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return {name: value / total for name, value in ordered}


def _best(rows: Sequence[_Row], objectives: Objectives, count: int) -> list[_Row]:
    if objectives.single is not None:
        sign = 1.0 if objectives.directions[0] == "minimize" else -1.0
        return sorted(rows, key=lambda row: sign * row.values[0])[:count]
    order = places([row.values for row in rows], objectives.directions)
    return [row for _, row in sorted(zip(order, rows, strict=True), key=lambda pair: pair[0])][
        :count
    ]


def _boundaries(best: Sequence[_Row]) -> list[Boundary]:
    names = dict.fromkeys(name for row in best for name in row.params)
    found = []
    for name in names:
        own = [row for row in best if name in row.params]
        spread = [
            (position, row)
            for row in own
            if (position := _position(row.distributions[name], row.params[name])) is not None
        ]
        if len(spread) < TOP - 1:
            continue
        place, typical = sorted(spread, key=lambda pair: pair[0])[len(spread) // 2]
        distribution = typical.distributions[name]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        if EDGE < place < 1.0 - EDGE:
            continue
        low = place <= EDGE
        bound = distribution.low if low else distribution.high
        at = "low" if low else "high"
        found.append(Boundary(name, at, float(bound), float(typical.params[name]), len(spread)))
    return found


def _position(distribution: BaseDistribution, value: Any) -> float | None:
    """Where in its range a number lies, from 0 to 1 in the scale of the range; None for choices."""
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        return None
    if distribution.single():
        return None
    scale: Callable[[float], float] = math.log if distribution.log else float
    low, high = scale(distribution.low), scale(distribution.high)
    return (scale(value) - low) / (high - low)
