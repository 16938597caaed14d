"""The ledger: the only writer of a study.

Every step is one line of the journal, or a first line that says what will be done and later lines
that do it, which opening the study completes. So a kill anywhere loses nothing and repeats nothing:

- a trial is asked for parameter by parameter; the seeds depend on what is drawn (`samplers`);
- a report is stored with its value and its verdict in one line, and a repeat gets the same verdict;
- an outcome is stored before it is told, and a verdict "stop" is told when the worker cannot.
"""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from meanflow_tune.records import Job, Outcome, Report, TrialRecord
from meanflow_tune.search.current import current_name
from meanflow_tune.search.errors import (
    SpaceError,
    StorageError,
    StudyChanged,
    StudyInUse,
    one_line,
)
from meanflow_tune.search.objective import SearchObjective
from meanflow_tune.search.rungs import Rungs, Verdict
from meanflow_tune.search.samplers import SamplerKind, make_sampler
from meanflow_tune.search.view import (
    ATTEMPT,
    BASELINE,
    CONFIG,
    OUTCOME,
    best_record,
    report_key,
    stored_reports,
    stored_verdict,
    to_record,
    trial_folder,
)

OBJECTIVE = "objective"
DIVERGED = "diverged"  # the one constraint: 1 for a diverged trial, 0 for every other
FIXED = "fixed_params"  # where Optuna keeps the parameters of an enqueued trial

_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Ledger:
    """One driver's hold on one study. Methods may be called from any thread, one at a time runs.

    suggest: gives a configuration (a dict, or anything with `to_dict`) for an Optuna trial.
    baselines: name -> parameters, handed out first, in this order. total: number of trials in all.
    fence: called before every write; raises when the lease is lost. epoch: the lease's, for jobs.
    startup_trials: finished trials before TPE models anything.

    rolled_forward: numbers of the trials whose end an earlier driver left to this one.
    """

    def __init__(
        self,
        storage: BaseStorage,
        study_name: str,
        suggest: Callable[[Trial], Any],
        baselines: Mapping[str, Mapping[str, Any]],
        objective: SearchObjective,
        rungs: Rungs | None,
        sampler: SamplerKind,
        seed: int,
        total: int,
        folder: Path,
        fence: Callable[[], None],
        epoch: int = 0,
        startup_trials: int = 10,
    ) -> None:
        self._storage = storage
        self._name = study_name
        self._suggest = suggest
        self._baselines = {name: dict(params) for name, params in baselines.items()}
        self._objective = objective
        self._rungs = rungs
        self._sampler: SamplerKind = sampler
        self._seed = seed
        self._total = total
        self._folder = Path(folder).absolute()
        self._fence = fence
        self._epoch = epoch
        self._startup_trials = startup_trials
        self._lock = threading.RLock()
        self._handed: set[int] = set()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        make_sampler(sampler, seed, 0, startup_trials)  # refuse an unknown kind before any write
        self._fence()
        self._stored = current_name(storage, study_name)  # what Optuna calls it
        self._study = self._open_study()
        self._check_baselines()
        self.rolled_forward = self._roll_forward()

    def next(self) -> Job | None:
        """The next trial to run, None when there is none to hand out (ever, in this driver).

        Unfinished trials of earlier drivers come first, then baselines, then new ones.

        Raises:
            SpaceError: the space gave an unusable configuration.
            LeaseLost: another driver took the study over.
        """
        with self._lock:
            self._fence()
            trials = self._trials()
            unfinished = [
                trial.number
                for trial in trials
                if trial.state == TrialState.RUNNING and trial.number not in self._handed
            ]
            if unfinished:
                return self._hand_out(unfinished[0])
            if not any(trial.state == TrialState.WAITING for trial in trials):
                if len(trials) >= self._total:
                    return None
                self._enqueue_baseline(trials)
            return self._hand_out(self._study.ask().number)

    def exhausted(self) -> bool:
        """Whether `next` gives None from now on: total trials exist and all were handed out."""
        with self._lock:
            trials = self._trials()
            return len(trials) >= self._total and not any(
                trial.state == TrialState.WAITING
                or (trial.state == TrialState.RUNNING and trial.number not in self._handed)
                for trial in trials
            )

    def record(self, number: int, report: Report) -> Verdict:
        """Store what a trial reported at a rung, and decide whether it goes on.

        A repeat (the same images) changes nothing and gets the verdict of the first time.

        Raises:
            ValueError: the trial is unknown, or the objective's value is missing or not finite.
        """
        with self._lock:
            self._fence()
            trial = self._trial(number)
            known = trial.user_attrs.get(report_key(report.images))
            if known is not None:
                return stored_verdict(known)
            if trial.state.is_finished():
                return Verdict(False, f"trial {number} has already ended as {trial.state.name}")
            value = self._objective.value(report.metrics)
            verdict = self._judge(trial, report.images, value)
            entry = {"report": report.to_dict(), "value": value, "verdict": verdict.to_dict()}
            self._set_attr(number, report_key(report.images), entry)
            self._set_intermediate(number, report.images, value)
            return verdict

    def finish(self, number: int, outcome: Outcome) -> None:
        """End a trial; nothing happens if it has ended, or if the outcome is "running".

        A running outcome (an interrupted driver) leaves the trial to the next driver.

        Raises:
            ValueError: the trial is unknown, or completed without ever having reported.
        """
        with self._lock:
            self._fence()
            trial = self._trial(number)
            if outcome.status == "running" or trial.state.is_finished():
                return
            if outcome.status == "completed" and not stored_reports(trial):
                raise ValueError(
                    f"trial {number} never reported, so it cannot be completed; end it as failed"
                )
            self._set_attr(number, OUTCOME, outcome.to_dict())
            self._tell(number)

    def records(self) -> list[TrialRecord]:
        """All trials that were ever handed out or are about to be, in order of their numbers."""
        with self._lock:
            return [self._record(trial) for trial in self._trials() if CONFIG in trial.user_attrs]

    def record_of(self, number: int) -> TrialRecord:
        """One trial; ValueError when the study has no such number."""
        with self._lock:
            return self._record(self._trial(number))

    def best(self, baseline: bool | None = None) -> TrialRecord | None:
        """The best completed trial: of all (None), of the baselines, or of the proposed ones."""
        return best_record(self.records(), self._objective.direction, baseline)

    def _open_study(self) -> optuna.Study:
        direction = self._objective.direction
        try:
            study = optuna.load_study(study_name=self._stored, storage=self._storage)
        except KeyError:
            study = optuna.create_study(
                study_name=self._stored, storage=self._storage, direction=direction
            )
        made_for = study.user_attrs.get(OBJECTIVE)
        asked = [str(self._objective), direction]
        if made_for is None:
            study.set_user_attr(OBJECTIVE, asked)
        elif made_for != asked:
            raise StudyChanged(
                f"study {self._name} has the objective {' '.join(made_for)}, not {' '.join(asked)};"
                " values of both cannot be compared, so give the search another study name"
            )
        return study

    def _check_baselines(self) -> None:
        for trial in self._trials():
            name = trial.user_attrs.get(BASELINE)
            now = self._baselines.get(name) if name is not None else None
            if now is not None and now != (was := trial.system_attrs.get(FIXED)):
                raise StudyChanged(
                    f"baseline {name!r} is trial {trial.number} with the parameters {was}, but the"
                    f" space now gives {now}; rename the baseline, or the study"
                )

    def _roll_forward(self) -> tuple[int, ...]:
        """Complete what a kill cut short, in the order in which it would have happened."""
        ended = []
        running = [trial for trial in self._trials() if trial.state == TrialState.RUNNING]
        for trial in running:
            self._resolve(trial.number)
        for trial in running:
            entries = stored_reports(trial)
            for images, entry in entries.items():
                if images not in trial.intermediate_values:
                    self._set_intermediate(trial.number, images, entry["value"])
            if OUTCOME not in trial.user_attrs and entries:
                verdict = stored_verdict(list(entries.values())[-1])
                if verdict.go_on:
                    continue
                outcome = Outcome("pruned", verdict.reason)
                self._set_attr(trial.number, OUTCOME, outcome.to_dict())
            elif OUTCOME not in trial.user_attrs:
                continue
            self._tell(trial.number)
            ended.append(trial.number)
        return tuple(ended)

    def _enqueue_baseline(self, trials: list[FrozenTrial]) -> None:
        """Put the first baseline that the study lacks in the queue, if there is one."""
        present = {trial.user_attrs.get(BASELINE) for trial in trials}
        for name, params in self._baselines.items():
            if name not in present:
                self._study.enqueue_trial(params, user_attrs={BASELINE: name})
                return

    def _hand_out(self, number: int) -> Job:
        config = self._resolve(number)
        attempt = self._trial(number).user_attrs.get(ATTEMPT, -1) + 1
        self._set_attr(number, ATTEMPT, attempt)
        self._handed.add(number)
        return Job(
            study=self._name,
            number=number,
            config=config,
            folder=str(trial_folder(self._folder, number)),
            attempt=attempt,
            epoch=self._epoch,
        )

    def _resolve(self, number: int) -> dict[str, Any]:
        """The stored configuration of a trial; where there is none yet, ask for it and store it."""
        stored: dict[str, Any] | None = self._trial(number).user_attrs.get(CONFIG)
        if stored is not None:
            return stored
        sampler = make_sampler(self._sampler, self._seed, number, self._startup_trials)
        # A new study object has no cached trials, so that the history is the stored one.
        study = optuna.load_study(study_name=self._stored, storage=self._storage, sampler=sampler)
        trial = Trial(study, self._trial_id(number))
        try:
            config = _plain(self._suggest(trial))
        except (StorageError, StudyInUse):
            raise
        except Exception as error:
            if _is_refused_law(error):
                raise SpaceError(
                    f"{one_line(error).rstrip('.')}: earlier trials have that parameter with other choices,"
                    " another kind or another scale, and random draws of the space did not show it;"
                    " give the parameter another name in the space, or the search another study name"
                ) from error
            raise SpaceError(
                f"the space gave no usable configuration for trial {number} with the parameters"
                f" {trial.params}: {one_line(error)}"
            ) from error
        self._set_attr(number, CONFIG, config)
        return config

    def _judge(self, trial: FrozenTrial, images: int, value: float) -> Verdict:
        if images >= _last_rung(trial.user_attrs[CONFIG]):
            return Verdict(True, f"the last rung, with {value:.6g}")
        if self._rungs is None:
            return Verdict(True, "trials are not stopped early in this search")
        peers = [
            entry["value"]
            for other in self._trials()
            if (entry := other.user_attrs.get(report_key(images))) is not None
        ]
        protected = BASELINE in trial.user_attrs
        return self._rungs.decide([*peers, value], value, protected, self._objective.direction)

    def _tell(self, number: int) -> None:
        """Carry out the stored outcome of a running trial; each step may have been done before."""
        trial = Trial(self._study, self._trial_id(number))
        frozen = self._trial(number)
        status = frozen.user_attrs[OUTCOME]["status"]
        if DIVERGED not in trial.constraints:
            trial.set_constraint(DIVERGED, float(status == "diverged"))
        value = None
        if status == "completed":
            value = list(stored_reports(frozen).values())[-1]["value"]
        self._study.tell(number, value, state=_STATES[status])

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _trial_id(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self._stored)
        try:
            return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        except KeyError:
            raise ValueError(f"study {self._name} has no trial {number}") from None

    def _trial(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._trial_id(number))

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        return to_record(trial, self._name, self._folder)

    def _set_attr(self, number: int, key: str, value: Any) -> None:
        self._fence()
        self._storage.set_trial_user_attr(self._trial_id(number), key, value)

    def _set_intermediate(self, number: int, images: int, value: float) -> None:
        self._fence()
        self._storage.set_trial_intermediate_value(self._trial_id(number), images, value)


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as the JSON data that every later reader of the study sees."""
    data = config.to_dict() if hasattr(config, "to_dict") else config
    plain = json.loads(json.dumps(data, allow_nan=False))
    if not isinstance(plain, dict):
        raise TypeError(
            f"suggest must give a dict or have to_dict, but gave {type(config).__name__}"
        )
    return plain


def _is_refused_law(error: Exception) -> bool:
    """Whether Optuna refuses another law under a known name (`check_distribution_compatibility`)."""
    return isinstance(error, ValueError) and any(
        text in str(error)
        for text in (
            "different distribution kind",
            "different log configuration",
            "does not support dynamic value space",
        )
    )


def _last_rung(config: Mapping[str, Any]) -> float:
    """Images at the end of a trial's budget, in whole batches; infinite where none is declared."""
    budget = config.get("budget")
    if not isinstance(budget, Mapping) or "images" not in budget:
        return float("inf")
    batch = budget.get("global_batch", 1)
    return float(budget["images"] // batch * batch)
