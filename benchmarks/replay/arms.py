"""The searches that a replay compares: ours with any settings, and what Ray Tune does by itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import Trial, TrialState

from benchmarks.replay.rows import Mapped, RowSuggester
from benchmarks.replay.simulation import METRIC, Director
from benchmarks.replay.surrogate import Surrogate
from benchmarks.replay.table import Curve, Table
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Decision, Job, Outcome, Report
from meanflow_tune.search.objectives import SearchObjective
from meanflow_tune.search.pruning.rules import Rungs
from meanflow_tune.search.samplers.factory import SamplerKind
from meanflow_tune.search.study.ledger import Ledger

STUDY = "replay"
RANDOM = "random"
STOCK_REDUCTION = 4.0  # Ray's default
UNBOUNDED = 1_000_000
Scheduler = Literal["asha", "median", "none"]
PRODUCT = SearchRequest(study=STUDY)  # the defaults of tune.py


@dataclass(frozen=True)
class Arm:
    """One search; its settings are those of tune.py. stock: Ray Tune's own behaviour, for which only
    `reduction` and `grace` count; nearest: on a table of rows, random search takes the nearest row to
    what it draws, as the other samplers do (`replay_rows`)."""

    name: str
    sampler: SamplerKind = PRODUCT.sampler
    scheduler: Scheduler = PRODUCT.scheduler
    reduction: float = PRODUCT.reduction
    grace: int = PRODUCT.grace
    brackets: int = PRODUCT.brackets
    promotion: bool = PRODUCT.promotion
    protect: float = PRODUCT.protect
    min_peers: int = Rungs.model_fields["min_peers"].default
    startup_trials: int = PRODUCT.startup_trials
    stock: bool = False
    nearest: bool = False

    @property
    def mapping(self) -> Mapped:
        """How its suggestions become rows."""
        if self.sampler == "tpe":
            return "ratio"
        return "uniform" if self.sampler == "random" and not self.nearest else "nearest"


@dataclass(frozen=True)
class Problem:
    """What all searches of a replay have in common; a process gets it once.

    space: the study's `suggest`, None where it is not needed; surrogate: None to restrict candidates to
    the table's rows; best, median: final values that regrets are counted from.
    """

    table: Table
    space: Callable[[Any], Any] | None
    surrogate: Surrogate | None
    best: float
    median: float

    def regret(self, values: np.ndarray) -> np.ndarray:
        """0 for the best final value and 1 for the median one; infinite where there is none (NaN)."""
        found = (values - self.best) / (self.median - self.best)
        return np.where(np.isnan(found), np.inf, found)

    def search(self, arm: Arm, seed: int) -> tuple[Director, Callable[[dict[str, Any]], Curve]]:
        """A search that has not begun, and what its trials give."""
        if self.surrogate is not None:
            assert self.space is not None
            suggest, curve = self.surrogate.suggester(self.space), self.surrogate.curve
            total = UNBOUNDED
        else:
            suggest = rows = RowSuggester(self.table, arm.mapping, seed, self.space)
            curve, total = rows.curve, len(self.table.rows)
        if arm.stock:
            return Stock(self.table, suggest, total, seed, arm.reduction, arm.grace), curve
        return _ledger(arm, self.table, suggest, total, seed), curve


def _ledger(
    arm: Arm, table: Table, suggest: Callable[[Trial], Any], total: int, seed: int
) -> Ledger:
    rungs = None
    if arm.scheduler != "none":
        rungs = Rungs(
            kind=arm.scheduler,
            reduction=arm.reduction,
            min_peers=arm.min_peers,
            grace=arm.grace,
            brackets=arm.brackets,
            promotion=arm.promotion,
            protect=arm.protect,
        )
    return Ledger(
        storage=InMemoryStorage(),
        study_name=STUDY,
        suggest=suggest,
        baselines=table.baselines,
        objectives=SearchObjective(metrics=(METRIC,), direction=table.direction),
        rungs=rungs,
        sampler=arm.sampler,
        seed=seed,
        total=total,
        folder=Path(STUDY),
        fence=lambda: None,
        epoch=0,
        startup_trials=arm.startup_trials,
        repeats=0,
        max_failures=total,  # no trial of a table fails
        terms=0,
    )


class Stock:
    """Ray Tune 2.60 with `OptunaSearch` and `ASHAScheduler`, both with their defaults.

    What they do, read in their sources: OptunaSearch makes `TPESampler(seed=seed)`
    (ray/tune/search/optuna/optuna_search.py, `_setup_study`), and tells a trial that the scheduler
    stopped as COMPLETE with its last value (`on_trial_complete`), so that values of different
    fidelities are modelled as one; a trial that ends with NaN stays RUNNING, since `tell` raises and
    the error is only logged. ASHAScheduler (ray/tune/schedulers/async_hyperband.py, `_Bracket`) has
    rungs at grace * reduction^k, compares with the percentile of the values recorded before, lets
    the first value pass, protects no baseline, and never promotes.

    Kinder than the original: the winner is taken among trials that ran through, whereas
    `ResultGrid.get_best_result` compares last values of all; and nothing is lost by a restart.
    """

    def __init__(
        self,
        table: Table,
        suggest: Callable[[Trial], Any],
        total: int,
        seed: int,
        reduction: float = STOCK_REDUCTION,
        grace: int = 0,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._suggest, self._total = suggest, total
        self._sign = -1.0 if table.direction == "minimize" else 1.0
        self._study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=seed), direction=table.direction
        )
        for params in table.baselines.values():
            self._study.enqueue_trial(params)
        self._trials: dict[int, Trial] = {}
        self._last: dict[int, float] = {}
        self._rungs = stock_rungs(grace or table.rungs[0], table.rungs[-1], reduction)
        self._reduction, self._end = reduction, table.rungs[-1]

    def next(self) -> Job | None:
        if len(self._trials) >= self._total:
            return None
        trial = self._study.ask()
        self._trials[trial.number] = trial
        return Job(STUDY, trial.number, self._suggest(trial), STUDY, 0, 0)

    def record(self, number: int, report: Report) -> Decision:
        value = report.metrics[METRIC]
        self._last[number] = value
        self._trials[number].report(value, report.images)
        go_on = self._goes_on(number, report.images, self._sign * value)
        return Decision(go_on or report.images >= self._end, "as Ray decides")

    def finish(self, number: int, outcome: Outcome) -> None:
        if outcome.status != "diverged":
            self._study.tell(self._trials[number], self._last[number], state=TrialState.COMPLETE)

    def _goes_on(self, number: int, images: int, reward: float) -> bool:
        for milestone, recorded in self._rungs:
            if images >= milestone and number not in recorded:
                before = list(recorded.values())
                recorded[number] = reward
                share = (1.0 - 1.0 / self._reduction) * 100.0
                return not before or reward >= float(np.percentile(before, share))
        return True


def stock_rungs(grace: int, last: int, reduction: float) -> list[tuple[float, dict[int, float]]]:
    """Ray's milestones, the highest first, each with the rewards recorded there."""
    count = int(math.log(last / grace) / math.log(reduction) + 1)
    return [(grace * reduction**k, {}) for k in reversed(range(count))]


def default_arms(given: Arm) -> list[Arm]:
    """What a replay compares; the first is ours, RANDOM what it is held to."""
    arms = [given]
    if given.scheduler == "asha":
        name = "ours, no promotion" if given.promotion else "ours, promotion"
        arms.append(replace(given, name=name, promotion=not given.promotion))
    nearest = given.mapping == "nearest"
    arms += [
        replace(given, name="ours, no scheduler", scheduler="none"),
        replace(given, name="random, our scheduler", sampler="random", nearest=nearest),
        Arm(RANDOM, sampler="random", scheduler="none", nearest=nearest),
        Arm("stock Ray + Optuna", reduction=STOCK_REDUCTION, grace=given.grace, stock=True),
    ]
    return arms
