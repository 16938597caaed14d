"""A surrogate of a table: forests that predict a value for every configuration at every rung.

One random forest predicts log values and log costs at all rungs jointly from the filled and one-hot
encoded parameters. The out-of-fold residuals of one row, at all rungs, are added to a prediction; a hash
of the configuration chooses the row, so that a configuration always gets the same values.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import Trial
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.model_selection import KFold

from benchmarks.derivatives.tables import grid
from benchmarks.replay.rows import budget
from benchmarks.replay.table import Curve, Table, unit

PARAMS = "params"
FOLDS, TREES = 10, 100
REFERENCE_DRAWS = 1000


@dataclass(frozen=True)
class RankError:
    """Quality of out-of-fold predictions at one rung. spearman: rank correlation with the stored values;
    mean_rank_error: mean difference of ranks as a share of the rows (1/3 for random guesses)."""

    images: int
    spearman: float
    mean_rank_error: float


class Features:
    """Parameters as numbers: positions in ranges, one-hot choices, and -1 for absent parameters."""

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self._distributions = dict(distributions)

    def __call__(self, params: Mapping[str, Any]) -> np.ndarray:
        found: list[float] = []
        for name, distribution in self._distributions.items():
            present = name in params
            if isinstance(distribution, CategoricalDistribution):
                found += [
                    float(params[name] == c) if present else -1.0 for c in distribution.choices
                ]
            else:
                found.append(unit(params[name], distribution) if present else -1.0)
        return np.array(found)


class FlatForest:
    """A forest's prediction for one point, through all trees at once; `predict` is optimised for many
    points and takes a hundred times as long for one."""

    def __init__(self, forest: RandomForestRegressor) -> None:
        trees = [one.tree_ for one in forest.estimators_]
        starts = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
        self._roots = starts
        self._left = _children([tree.children_left for tree in trees], starts)
        self._right = _children([tree.children_right for tree in trees], starts)
        self._feature = np.maximum(np.concatenate([tree.feature for tree in trees]), 0)
        self._threshold = np.concatenate([tree.threshold for tree in trees])
        self._value = np.concatenate([tree.value[:, :, 0] for tree in trees])
        self._depth = max(tree.max_depth for tree in trees)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[features] -> [targets]."""
        point, nodes = x.astype(np.float32), self._roots
        for _ in range(self._depth):
            below = point[self._feature[nodes]] <= self._threshold[nodes]
            nodes = np.where(below, self._left[nodes], self._right[nodes])
        mean: np.ndarray = self._value[nodes].mean(axis=0)
        return mean


class Surrogate:
    """Curves of any configuration of a space, fitted to the rows of a table.

    Raises:
        ValueError: a value or a cost is not positive, so that it has no logarithm.
    """

    def __init__(self, table: Table, seed: int = 0, trees: int = TREES) -> None:
        through = [row for row in table.rows if not row.curve.diverges]
        targets = np.array(
            [[*row.curve.values, *np.diff(row.curve.costs, prepend=0.0)] for row in through]
        )
        if not (targets > 0.0).all():
            raise ValueError(
                f"the surrogate predicts logarithms, but a value of {table.objective} or a cost is not "
                "positive; replay with --table rows"
            )
        self._table = table
        self._count = trees
        self._rungs = len(table.rungs)
        self._features = Features(table.distributions)
        x, y = np.stack([self._features(row.params) for row in through]), np.log(targets)
        self._residuals = y - self._out_of_fold(x, y, seed)
        self.rank_errors = self._rank_errors(y)
        self._residuals = self._residuals[:, : self._rungs]
        self._forest = self._new_forest(seed).fit(x, y)
        self._trees = FlatForest(self._forest)
        self._stages = [len(row.curve.values) for row in table.rows if row.curve.diverges]
        self._classifier = self._fit_divergence(seed) if self._stages else None

    def curve(self, config: Mapping[str, Any]) -> Curve:
        """The curve of a configuration returned by `suggester`."""
        params = config[PARAMS]
        x = self._features(params)
        predicted = self._trees(x)
        draw = np.random.default_rng(_hash(params))
        values = np.exp(
            predicted[: self._rungs] + self._residuals[draw.integers(len(self._residuals))]
        )
        costs = np.cumsum(np.exp(predicted[self._rungs :]))
        if (
            self._classifier is not None
            and draw.random() < self._classifier.predict_proba(x[None])[0, 1]
        ):
            reached = int(draw.choice(self._stages))
            return Curve(tuple(values[:reached].tolist()), tuple(costs[: reached + 1].tolist()))
        return Curve(tuple(values.tolist()), tuple(costs.tolist()))

    def suggester(self, space: Callable[[Any], Any]) -> Callable[[Trial], dict[str, Any]]:
        """A space's `suggest` whose configuration is its parameters."""

        def suggest(trial: Trial) -> dict[str, Any]:
            space(trial)
            return {PARAMS: trial.params} | budget(self._table)

        return suggest

    def reference(self, space: Callable[[Any], Any], seed: int = 0) -> tuple[float, float]:
        """Best and median final value of random draws, from which regrets are computed."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.RandomSampler(seed=seed)
        study = optuna.create_study(sampler=sampler, direction=self._table.direction)
        suggest = self.suggester(space)
        finals = []
        for _ in range(REFERENCE_DRAWS):
            curve = self.curve(suggest(study.ask()))
            if not curve.diverges:
                finals.append(curve.values[-1])
        best = min(finals) if self._table.direction == "minimize" else max(finals)
        return best, float(np.median(finals))

    def describe(self) -> str:
        """How well the forests rank unseen rows, per rung."""
        rows = [["surrogate, out of fold", "Spearman", "mean rank error"]]
        for e in self.rank_errors:
            name = f"rung at {e.images:,} images"
            rows.append([name, f"{e.spearman:.2f}", f"{e.mean_rank_error:.2f} of the rows"])
        return grid(rows)

    def _out_of_fold(self, x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
        predicted = np.empty_like(y)
        for fitted, held in KFold(min(FOLDS, len(x)), shuffle=True, random_state=seed).split(x):
            predicted[held] = self._new_forest(seed).fit(x[fitted], y[fitted]).predict(x[held])
        return predicted

    def _new_forest(self, seed: int) -> RandomForestRegressor:
        return RandomForestRegressor(
            self._count, max_features=0.5, min_samples_leaf=2, random_state=seed
        )

    def _rank_errors(self, y: np.ndarray) -> list[RankError]:
        found = []
        for i, images in enumerate(self._table.rungs):
            true, guess = y[:, i], y[:, i] - self._residuals[:, i]
            ranks, guessed = np.argsort(np.argsort(true)), np.argsort(np.argsort(guess))
            error = float(np.abs(ranks - guessed).mean()) / len(true)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a constant column has no correlation: NaN
                found.append(RankError(images, float(spearmanr(true, guess)[0]), error))
        return found

    def _fit_divergence(self, seed: int) -> RandomForestClassifier:
        x = np.stack([self._features(row.params) for row in self._table.rows])
        y = [row.curve.diverges for row in self._table.rows]
        return RandomForestClassifier(self._count, min_samples_leaf=3, random_state=seed).fit(x, y)


def _children(trees: list[np.ndarray], starts: np.ndarray) -> np.ndarray:
    """Node -> child, over all trees; a leaf is its own child."""
    own = [np.where(tree < 0, np.arange(len(tree)), tree) for tree in trees]
    return np.concatenate([tree + start for tree, start in zip(own, starts, strict=True)])


def _hash(params: Mapping[str, Any]) -> int:
    text = json.dumps(params, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
