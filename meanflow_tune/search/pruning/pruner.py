"""The pruner: decisions at rungs and promotions, functions of the stored trials alone."""

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from optuna.trial import FrozenTrial

from meanflow_tune.records import Decision, Report
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.pruning.rules import Rungs
from meanflow_tune.search.pruning.standings import RungResult, Standings, Values
from meanflow_tune.search.sorted_lists import discard
from meanflow_tune.search.store.trials import (
    BASELINE,
    BRACKET,
    CONFIG,
    PROTECTED,
    paused_at,
    stored_reports,
    stored_values,
)


class Pruner:
    """rungs: None without early stopping; repeats: further seeds for survivors of the last rung; ramps_end:
    configuration -> the progress in [0, 1] before which its trial is not stopped."""

    def __init__(
        self,
        rungs: Rungs | None,
        objectives: Objectives,
        repeats: int,
        ramps_end: Callable[[Mapping[str, Any]], float] = lambda config: 0.0,
    ) -> None:
        self._rungs, self._repeats, self._ramps_end = rungs, repeats, ramps_end
        self._directions = objectives.directions
        self._trials: dict[int, _TrialRungs] = {}
        # (images of a rung, bracket, or None for all brackets) -> the results there.
        self._standings: dict[tuple[int, int | None], Standings] = defaultdict(
            partial(Standings, self._directions)
        )
        # (images, bracket) -> the trials that are paused there, in the order of the standings.
        self._waiting: dict[tuple[int, int], list[tuple[float, int]]] = {}
        if rungs is not None:
            rungs.check(self._directions)

    @property
    def pauses(self) -> bool:
        """Whether a stopped trial is only paused."""
        return self._rungs is not None and self._rungs.pauses

    def initial_attrs(self, seed: int, number: int, is_baseline: bool) -> dict[str, Any]:
        """The attributes of a new trial that differ from their defaults."""
        attrs: dict[str, Any] = {}
        if self._rungs is not None:
            if not is_baseline and self._rungs.is_protected(seed, number):
                attrs[PROTECTED] = True
            if self._rungs.bracket(number):
                attrs[BRACKET] = self._rungs.bracket(number)
        return attrs

    def update(self, changed: Iterable[FrozenTrial]) -> None:
        """Take in the trials that are new or have changed; decisions and promotions follow from them."""
        for trial in changed:
            before = self._trials.get(trial.number)
            now = self._trials[trial.number] = _TrialRungs(trial)
            if before is not None and before.paused_at is not None:
                waiting = self._waiting[before.paused_at, before.bracket]
                discard(waiting, self._order_key(before, before.paused_at))
                if not waiting:
                    del self._waiting[before.paused_at, before.bracket]
            if before is not None and before.bracket != now.bracket:
                for images in before.results:
                    self._standings[images, before.bracket].remove(trial.number)
            for images, result in now.results.items():
                self._standings[images, now.bracket].put(result)
                self._standings[images, None].put(result)
            if now.paused_at is not None:
                waiting = self._waiting.setdefault((now.paused_at, now.bracket), [])
                bisect.insort(waiting, self._order_key(now, now.paused_at))

    def decision(self, trial: FrozenTrial, report: Report, values: Values) -> Decision:
        """The decision on `trial` after a report, not stored yet, with the objectives `values`."""
        if report.repeat:
            return Decision(True, f"repeat {report.repeat}")
        history = [stored_values(entry) for entry in stored_reports(trial).values()]
        own = RungResult(trial.number, (*history, values))
        at_the_last = report.images >= last_rung(trial.user_attrs[CONFIG])
        if self._rungs is None and not at_the_last:
            return Decision(True, "trials are not stopped early in this search")
        bracket = None if at_the_last else trial.user_attrs.get(BRACKET, 0)
        standings = self._standings[report.images, bracket]
        if at_the_last:
            return self._at_the_last(own, standings)
        assert self._rungs is not None
        decision = self._rungs.decide_among(standings, own, self._directions[0])
        spared = None if decision.go_on else self._spared(trial, report.images, self._rungs)
        return Decision(True, f"{decision.reason}, but {spared}") if spared else decision

    def promotion(self) -> tuple[int, int, str] | None:
        """The paused trial to promote, at how many images, and the reason; late rungs come first."""
        if self._rungs is None or not self._rungs.pauses:
            return None
        for rung in sorted(self._waiting, key=lambda rung: (-rung[0], rung[1])):
            found = self._rungs.promote_from(self._standings[rung], self._waiting[rung])
            if found is not None:
                return found[0], rung[0], found[1]
        return None

    def _order_key(self, trial: "_TrialRungs", images: int) -> tuple[float, int]:
        return self._standings[images, trial.bracket].order_key(trial.number)

    def _spared(self, trial: FrozenTrial, images: int, rungs: Rungs) -> str | None:
        """Why a trial that is not among the best continues; None where it does not."""
        if BASELINE in trial.user_attrs:
            return "a baseline is never stopped"
        if trial.user_attrs.get(PROTECTED):
            return "it is protected to audit the rungs"
        if images < rungs.grace:
            return f"the grace is {rungs.grace:,} images"
        config = trial.user_attrs[CONFIG]
        ramps_end = self._ramps_end(config)
        if images < ramps_end * last_rung(config):
            return f"its ramps last until {ramps_end:.0%} of its images"
        bracket = trial.user_attrs.get(BRACKET, 0)
        if sum(before >= rungs.grace for before in stored_reports(trial)) < bracket:
            return f"bracket {bracket} spares this rung"
        return None

    def _at_the_last(self, own: RungResult, standings: Standings) -> Decision:
        """At the last rung nothing stops; the decision is about the repeats."""
        text = "the last rung"
        if not self._repeats:
            return Decision(True, text)
        reduction = self._rungs.reduction if self._rungs is not None else 2.0
        found = Rungs.best_share(reduction).decide_among(standings, own, self._directions[0])
        seeds = f"{self._repeats} more seed{'s' * (self._repeats > 1)}"
        if found.go_on:
            return Decision(True, f"{text}; it is repeated on {seeds}")
        return Decision(False, f"{text}; {found.reason} to {seeds}")


def last_rung(config: Mapping[str, Any]) -> float:
    """Images at the end of a trial's budget, in whole batches; infinite without a budget."""
    budget = config.get("budget")
    if not isinstance(budget, Mapping) or "images" not in budget:
        return float("inf")
    batch = budget.get("global_batch", 1)
    return float(budget["images"] // batch * batch)


class _TrialRungs:
    """The rungs of a trial. results: images of each reported rung -> its result."""

    def __init__(self, trial: FrozenTrial) -> None:
        self.number = trial.number
        self.bracket: int = trial.user_attrs.get(BRACKET, 0)
        self.paused_at = paused_at(trial)
        self.results: dict[int, RungResult] = {}
        history: tuple[Values, ...] = ()
        for images, entry in stored_reports(trial).items():
            history = (*history, stored_values(entry))
            self.results[images] = RungResult(trial.number, history)
