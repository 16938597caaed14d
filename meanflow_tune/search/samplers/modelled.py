"""The trials that TPE models: a bounded number, so that an ask costs the same in a study of any size.

They are the newest NEWEST finished trials, the running ones, and of the older ones the best, as many as TPE
takes for good ones. So with one objective the good ones are those of the whole study; of the others TPE
weights the oldest least in any case.
"""

import bisect
import itertools
from collections.abc import Iterable, Sequence

from optuna.samplers._tpe import sampler as tpe
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.search.objectives import Direction
from meanflow_tune.search.pareto import non_dominated
from meanflow_tune.search.samplers.history import shown
from meanflow_tune.search.sorted_lists import discard
from meanflow_tune.search.store.changes import StudyTrials
from meanflow_tune.search.store.trials import FINISHED

NEWEST = 1000

_SERIALS = itertools.count(1)
_SHAPES: dict[frozenset[str], frozenset[str]] = {}  # one object each, so that comparing is quick


class CachedTrial(FrozenTrial):
    """A trial with plain attributes instead of properties, for TPE only; it is never stored.

    It holds what TPE uses: the violated constraints only, and the last of the values at rungs.

    serial: unique, so that a changed trial differs from its earlier state; shape: the names of its
    parameters.
    """

    number = 0
    value = None
    values = None
    params = {}
    distributions = {}
    system_attrs = {}  # type: ignore[override]
    constraints = {}

    def __init__(self, trial: FrozenTrial) -> None:
        self.__dict__.update(trial.__dict__)
        self.number = trial.number
        self.values = trial.values
        self.value = self.values[0] if self.values is not None and len(self.values) == 1 else None
        self.params = trial.params
        self.distributions = trial.distributions
        self.system_attrs = trial.system_attrs
        self.constraints = {key: value for key, value in trial.constraints.items() if value > 0}
        step = trial.last_step
        if step is not None:
            self.intermediate_values = {step: trial.intermediate_values[step]}
        self.serial = next(_SERIALS)
        shape = frozenset(self.distributions)
        self.shape = _SHAPES.setdefault(shape, shape)


class ModelledTrials:
    """Of one study. They follow from what is stored alone, in whatever order it came."""

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        ways = storage.get_study_directions(study_id)
        self._trials = StudyTrials(storage, study_id)
        self._known: dict[int, CachedTrial] = {}  # finished and running ones
        self._running: set[int] = set()
        self._newest: list[int] = []  # numbers of finished trials, ascending
        self._older: list[int] = []  # the finished ones before them
        self._best = _Front(ways) if len(ways) > 1 else _Ranking(ways[0])
        self._shapes: dict[frozenset[str], list[int]] = {}  # numbers of finished trials, ascending

    @property
    def finished(self) -> int:
        """How many trials of the study have finished, modelled or not."""
        return len(self._newest) + len(self._older)

    def update(self) -> None:
        """Take in what has changed since the last call."""
        for trial in self._trials.update():
            self._remove(trial.number)
            seen = CachedTrial(shown(trial))
            if seen.state == TrialState.RUNNING:
                self._known[trial.number] = seen
                self._running.add(trial.number)
            elif seen.state in FINISHED:
                self._known[trial.number] = seen
                self._add_finished(seen)
        while len(self._newest) > NEWEST:
            self._add_older(self._newest.pop(0))
        while self._older and len(self._newest) < NEWEST:
            number = self._older.pop()
            self._best.remove(self._known[number])
            self._newest.insert(0, number)

    def all(self) -> list[CachedTrial]:
        """The trials to be modelled, by number."""
        numbers = sorted({*self._best.numbers(), *self._newest, *self._running})
        return [self._known[number] for number in numbers]

    def first_of_each_shape(self) -> list[CachedTrial]:
        """The first finished trial with each set of parameters, by number."""
        return [self._known[number] for number in sorted(n[0] for n in self._shapes.values())]

    def _add_finished(self, trial: CachedTrial) -> None:
        bisect.insort(self._shapes.setdefault(trial.shape, []), trial.number)
        if self._older and trial.number < self._older[-1]:
            self._add_older(trial.number)
        else:
            bisect.insort(self._newest, trial.number)

    def _add_older(self, number: int) -> None:
        bisect.insort(self._older, number)
        self._best.add(self._known[number])

    def _remove(self, number: int) -> None:
        self._running.discard(number)
        trial = self._known.pop(number, None)
        if trial is None or trial.state not in FINISHED:
            return
        if discard(self._older, number):
            self._best.remove(trial)
        discard(self._newest, number)
        of_shape = self._shapes[trial.shape]
        discard(of_shape, number)
        if not of_shape:
            del self._shapes[trial.shape]


class _Ranking:
    """Trials in the order in which TPE takes them for good ones, of one objective."""

    def __init__(self, direction: StudyDirection) -> None:
        self._direction = direction
        self._order: list[tuple[int, float, float, int]] = []

    def add(self, trial: CachedTrial) -> None:
        bisect.insort(self._order, self._rank(trial))

    def remove(self, trial: CachedTrial) -> None:
        discard(self._order, self._rank(trial))

    def numbers(self) -> list[int]:
        """Of the best."""
        return [rank[-1] for rank in self._order[: tpe.default_gamma(NEWEST)]]

    def _rank(self, trial: CachedTrial) -> tuple[int, float, float, int]:
        """As `_split_trials` sorts: completed trials, pruned ones by their last rung, infeasible ones."""
        infeasible = tpe._get_infeasible_trial_score(trial)
        if infeasible > 0:
            return 2, infeasible, 0.0, trial.number
        if trial.state == TrialState.COMPLETE:
            assert trial.value is not None
            sign = -1.0 if self._direction == StudyDirection.MAXIMIZE else 1.0
            return 0, sign * trial.value, 0.0, trial.number
        return 1, *tpe._get_pruned_trial_score(trial, self), trial.number  # type: ignore[arg-type]

    @property
    def direction(self) -> StudyDirection:
        """What `_get_pruned_trial_score` asks a study."""
        return self._direction


class _Front:
    """The non-dominated ones of completed trials with several objectives."""

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self._directions: list[Direction] = [
            "maximize" if way == StudyDirection.MAXIMIZE else "minimize" for way in directions
        ]
        self._all: dict[int, tuple[float, ...]] = {}
        self._front: dict[int, tuple[float, ...]] = {}

    def add(self, trial: CachedTrial) -> None:
        if trial.state == TrialState.COMPLETE and not trial.constraints and trial.values:
            self._all[trial.number] = tuple(trial.values)
            self._front = self._of([*self._front.items(), (trial.number, tuple(trial.values))])

    def remove(self, trial: CachedTrial) -> None:
        self._all.pop(trial.number, None)
        if trial.number in self._front:  # others may have been dominated by it alone
            self._front = self._of(self._all.items())

    def numbers(self) -> list[int]:
        """Of the best; where there are many, the newest."""
        return sorted(self._front)[-tpe.default_gamma_multiobjective(NEWEST) :]

    def _of(self, points: Iterable[tuple[int, tuple[float, ...]]]) -> dict[int, tuple[float, ...]]:
        points = list(points)
        if not points:
            return {}
        best = non_dominated([values for _, values in points], self._directions)
        return {number: values for (number, values), on in zip(points, best, strict=True) if on}
