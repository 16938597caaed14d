"""The ledger: the only writer of a study.

Every step is one line of the journal, or an intention in one line and its effects in later lines,
which are completed when the study is opened again. So a kill loses nothing and repeats nothing:

- the parameters of a trial are stored one by one, and each has its own seed (`samplers`);
- a report is stored with its value and decision in one line; a repeated report gets the same decision;
- an outcome is stored before Optuna is told; a stop that a killed worker missed is completed.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import Trial, TrialState

from meanflow_tune.records import Decision, Job, Outcome, Report, TrialRecord
from meanflow_tune.search.errors import (
    SearchStopped,
    SpaceError,
    StorageError,
    StudyInUse,
    one_line,
)
from meanflow_tune.search.objectives import Objectives, SearchObjective
from meanflow_tune.search.pruning.pruner import Pruner
from meanflow_tune.search.pruning.rules import Rungs
from meanflow_tune.search.samplers.factory import SamplerKind, make_sampler
from meanflow_tune.search.seeds import draw_seed
from meanflow_tune.search.space.distributions import is_refused_distribution
from meanflow_tune.search.store.trials import (
    ATTEMPT,
    BASELINE,
    CONFIG,
    ENQUEUED,
    INTERRUPTIONS,
    OUTCOME,
    PAUSED,
    STOPPED,
    TERMS,
    TrialCache,
    decision_at,
    promoted_key,
    report_key,
    stored_reports,
    to_record,
    trial_folder,
)
from meanflow_tune.search.study.recovery import recover
from meanflow_tune.search.study.trial_index import RecordFeed, TrialIndex
from meanflow_tune.search.study.writer import (
    STOPPED_BY_USER,
    StudyWriter,
    check_baselines,
    plain,
    settled_outcome,
)

# Drivers in which machine failures may use up a trial's retries before the trial counts as failed.
MAX_DRIVERS = 2


class Ledger:
    """The study of one driver. Methods may be called from any thread and run one at a time.

    suggest: returns the configuration (a dict, or an object with `to_dict`) of an Optuna trial.
    baselines: name -> parameters, run first, in this order. total: number of trials, baselines
    included. fence: called before every write; raises when the lease is lost. epoch: the lease's, for
    jobs. startup_trials: finished trials before a sampler models anything. repeats: whole runs on
    further seeds for each survivor of the last rung. max_failures: consecutive failed trials that stop
    the search. terms: index of the manifest's terms. ramps_end: as of `Pruner`. enqueued: key and
    parameters of users' trials.
    """

    def __init__(
        self,
        *,
        storage: BaseStorage,
        study_name: str,
        suggest: Callable[[Trial], Any],
        baselines: Mapping[str, Mapping[str, Any]],
        objectives: Objectives | SearchObjective,
        rungs: Rungs | None,
        sampler: SamplerKind,
        seed: int,
        total: int,
        folder: Path,
        fence: Callable[[], None],
        epoch: int,
        startup_trials: int,
        repeats: int,
        max_failures: int,
        terms: int,
        ramps_end: Callable[[Mapping[str, Any]], float] = lambda config: 0.0,
        enqueued: Callable[[], Iterable[tuple[str, Mapping[str, Any]]]] = lambda: (),
    ) -> None:
        self._name = study_name
        self._suggest = suggest
        self._baselines = {name: dict(params) for name, params in baselines.items()}
        self.objectives = Objectives.of(objectives)
        self._pruner = Pruner(rungs, self.objectives, repeats, ramps_end)
        self._sampler: SamplerKind = sampler
        self._seed = seed
        self._total = total
        self._folder = Path(folder).absolute()
        self._epoch = epoch
        self._startup_trials = startup_trials
        self._repeats = tuple(draw_seed(seed, k, "repeat") // 2 for k in range(1, repeats + 1))
        self._max_failures = max_failures
        self._terms = terms
        self._enqueued = enqueued
        self._lock = threading.RLock()
        self._active: set[int] = set()
        self._promoted: dict[int, tuple[int, str]] = {}
        self._failures = 0
        self._record = TrialCache(lambda trial: to_record(trial, self._name, self._folder))
        make_sampler(sampler, seed, 0, startup_trials)  # refuse an unknown kind before any write
        self._writer = StudyWriter(storage, study_name, self.objectives, fence)
        check_baselines(self._writer.trials(), self._baselines)
        recover(self._writer, self._pruner.pauses, self._resolve)
        self._index = TrialIndex(self._writer.feed(), self._pruner)
        self._records = self.record_feed()

    def next(self) -> Job | None:
        """The next trial to run; None when there is none at the moment.

        In this order: unfinished trials of earlier drivers, promoted trials, baselines, trials that users
        ask for, new trials.

        Raises:
            SpaceError: the space returned an unusable configuration.
            LeaseLost: another driver took over the study.
        """
        with self._lock:
            with self._writer.batch():
                self._writer.check()
                job = self._next()
            if job is not None:
                self._active.add(job.number)
            return job

    def _next(self) -> Job | None:
        index = self._index
        index.update()
        unfinished = index.running - self._active
        if unfinished:
            return self._job(min(unfinished))
        promotion = self._pruner.promotion()
        if promotion is not None:
            number, images, reason = promotion
            self._writer.set_attr(number, promoted_key(images), f"promoted: {reason}")
            self._promoted[number] = images, reason
            return self._job(number)
        if not index.waiting:
            if index.count >= self._total:
                return None
            self._enqueue()
            index.update()
        return self._job(self._writer.ask(min(index.waiting, default=None)))

    def promotion_of(self, number: int) -> tuple[int, str] | None:
        """Where a trial that `next` just handed out was paused, in images, and why it is promoted.

        None where it was not; asked again, too.
        """
        with self._lock:
            return self._promoted.pop(number, None)

    def exhausted(self) -> bool:
        """Whether `next` returns None from now on, provided that no trial is running."""
        with self._lock:
            index = self._index
            index.update()
            return (
                index.count >= self._total
                and not index.waiting
                and not index.running - self._active
                and self._pruner.promotion() is None
            )

    def record(self, number: int, report: Report) -> Decision:
        """Store a trial's report and decide whether the trial continues.

        A repeated report changes nothing and gets the first decision, or that of a later promotion. At
        the last rung of a trial's own run the decision is about its repeats on other seeds.

        Raises:
            ValueError: the trial is unknown, or a value of the objectives is missing or not finite.
        """
        with self._lock, self._writer.batch():
            self._writer.check()
            trial = self._writer.trial(number)
            key = report_key(report)
            if key in trial.user_attrs:
                if report.repeat:
                    return Decision(**trial.user_attrs[key]["verdict"])
                return decision_at(trial, report.images)
            if trial.state.is_finished():
                return Decision(False, f"trial {number} has already ended as {trial.state.name}")
            values = self.objectives.values(report)
            self._index.update()
            decision = self._pruner.decision(trial, report, values)
            entry = {
                "report": report.to_dict(),
                "value": values[0] if len(values) == 1 else None,
                "values": values,
                "verdict": decision.to_dict(),
            }
            self._writer.set_attr(number, key, entry)
            if not report.repeat:
                self._writer.set_intermediate(number, report.images, values)
            return decision

    def finish(self, number: int, outcome: Outcome) -> None:
        """End a trial, or pause it where stopped trials may be promoted. Ended trials do not change.

        The outcome "running" (of an interrupted driver) leaves the trial to the next driver, as does
        the first machine failure that uses up its retries.

        Raises:
            ValueError: the trial is unknown, or completed without a report.
            SearchStopped: too many consecutive trials failed.
        """
        with self._lock, self._writer.batch():
            self._writer.check()
            trial = self._writer.trial(number)
            outcome = settled_outcome(trial, outcome)
            if outcome.status == "running" or trial.state.is_finished():
                return
            reports = stored_reports(trial)
            if outcome.status == "completed" and not reports:
                raise ValueError(
                    f"trial {number} never reported, so it cannot be completed; end it as failed"
                )
            stop = outcome.status == "pruned" and bool(reports) and self._pruner.pauses
            if (
                stop
                and STOPPED not in trial.user_attrs
                and not decision_at(trial, max(reports)).go_on
            ):
                self._writer.set_attr(number, PAUSED, max(reports))
                self._active.discard(number)
                return
            interrupted = outcome.status == "failed" and not outcome.deterministic
            if interrupted:
                times = trial.user_attrs.get(INTERRUPTIONS, 0) + 1
                self._writer.set_attr(number, INTERRUPTIONS, times)
            if not interrupted or times >= MAX_DRIVERS:
                self._tell(number, outcome)
            self._count_failures(number, outcome)

    def outcome_of(self, number: int, outcome: Outcome) -> Outcome:
        """The outcome that counts; see `settled_outcome`."""
        with self._lock:
            return settled_outcome(self._writer.trial(number), outcome)

    def stop(self, number: int) -> bool:
        """End a trial at a user's request; False where it runs, and its worker ends it at a safe point.

        Raises:
            ValueError: the trial is unknown, or has already ended.
        """
        with self._lock, self._writer.batch():
            self._writer.check()
            trial = self._writer.trial(number)
            if trial.state.is_finished():
                raise ValueError(f"trial {number} has already ended")
            if STOPPED not in trial.user_attrs:
                self._writer.set_attr(number, STOPPED, True)
            if number in self._active:
                return False
            if trial.state == TrialState.WAITING:
                self._writer.start(number)
                self._resolve(number)
            self._tell(number, STOPPED_BY_USER)
            return True

    def enqueued_keys(self) -> set[str | None]:
        """Of the trials that users asked for; None of the others."""
        with self._lock:
            self._index.update()
            return {None, *self._index.named(ENQUEUED)}

    def stopping(self) -> tuple[int, ...]:
        """Trials handed out by this driver that a user stopped and that have not ended yet."""
        with self._lock:
            active = [self._writer.trial(number) for number in sorted(self._active)]
            return tuple(trial.number for trial in active if STOPPED in trial.user_attrs)

    def end(self) -> tuple[int, ...]:
        """End the search: mark the trials that are still paused as pruned; returns their numbers."""
        with self._lock:
            self._index.update()
            paused = sorted(self._index.paused)
            for trial in map(self._writer.trial, paused):
                decision = decision_at(trial, trial.user_attrs[PAUSED])
                with self._writer.batch():
                    self._tell(trial.number, Outcome("pruned", decision.reason))
            return tuple(paused)

    def records(self) -> list[TrialRecord]:
        """All trials that have a configuration, by number."""
        with self._lock:
            self._records.update()
            return self._records.all()

    def record_feed(self) -> RecordFeed:
        """The same for one reader, which learns what changed since it looked last."""
        return RecordFeed(self._writer.feed(), self._record, self._lock)

    def record_of(self, number: int) -> TrialRecord:
        """The record of a trial. Raises ValueError where the study has no such number."""
        with self._lock:
            return self._record(self._writer.trial(number))

    def _enqueue(self) -> None:
        """Enqueue the first baseline that the study lacks, else the first trial that a user asks for."""
        for key, wanted in ((BASELINE, self._baselines.items()), (ENQUEUED, self._enqueued())):
            present = self._index.named(key)
            for name, params in wanted:
                if name not in present:
                    self._writer.enqueue(params, {key: name})
                    return

    def _tell(self, number: int, outcome: Outcome) -> None:
        self._writer.set_attr(number, OUTCOME, outcome.to_dict())
        self._writer.tell(number)
        self._active.discard(number)

    def _job(self, number: int) -> Job:
        config = self._resolve(number)
        attempt = self._writer.trial(number).user_attrs.get(ATTEMPT, -1) + 1
        self._writer.set_attr(number, ATTEMPT, attempt)
        return Job(
            study=self._name,
            number=number,
            config=config,
            folder=str(trial_folder(self._folder, number)),
            attempt=attempt,
            epoch=self._epoch,
            repeats=self._repeats,
        )

    def _resolve(self, number: int) -> dict[str, Any]:
        """The configuration of a trial, drawn and stored where there is none yet."""
        attrs = self._writer.trial(number).user_attrs
        stored: dict[str, Any] | None = attrs.get(CONFIG)
        if stored is not None:
            return stored
        sampler = make_sampler(self._sampler, self._seed, number, self._startup_trials)
        # A new study object has no cached trials, so that the sampler sees the stored ones.
        study = optuna.load_study(
            study_name=self._writer.stored, storage=self._writer.storage, sampler=sampler
        )
        trial = Trial(study, self._writer.trial_id(number))
        try:
            config = plain(self._suggest(trial))
        except (StorageError, StudyInUse):
            raise
        except Exception as error:
            if is_refused_distribution(error):
                raise SpaceError(
                    f"{one_line(error).rstrip('.')}: earlier trials have that parameter with other"
                    " choices, another kind or another scale, which random draws of the space did not"
                    " show; give the parameter another name in the space, or the search another study"
                    " name"
                ) from error
            raise SpaceError(
                f"the space returned no usable configuration for trial {number} with the parameters"
                f" {trial.params}: {one_line(error)}"
            ) from error
        initial = self._pruner.initial_attrs(self._seed, number, BASELINE in attrs)
        if self._terms:
            initial[TERMS] = self._terms
        for key, value in initial.items():
            self._writer.set_attr(number, key, value)
        self._writer.set_attr(number, CONFIG, config)
        return config

    def _count_failures(self, number: int, outcome: Outcome) -> None:
        self._failures = self._failures + 1 if outcome.status == "failed" else 0
        if self._failures < self._max_failures:
            return
        kind = "with a non-retryable error" if outcome.deterministic else "repeatedly"
        raise SearchStopped(
            f"the search stops after {self._failures} consecutive failed trials; the last one (trial"
            f" {number}) failed {kind}: {outcome.reason}; fix this and run the same command again, or"
            " raise --max-failures"
        )
