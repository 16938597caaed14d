"""Reading stored trials: names of generations, attributes, reports and decisions, and TrialRecords.

A search is an Optuna study; a generation above the first is a study NAME@k, which counts once it is
complete. Nothing here writes.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.records import Decision, Report, Status, TrialRecord
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.objectives import Direction

T = TypeVar("T")

# User attributes of a trial.
BASELINE, CONFIG, ATTEMPT, OUTCOME = "baseline", "config", "attempt", "outcome"
PAUSED = "paused_at"  # images of the rung where the trial was paused last; see `paused_at`
PROTECTED, BRACKET = "protected", "bracket"
INTERRUPTIONS = "broke_off"  # number of drivers in which machine failures used up its retries
TERMS = "terms"  # index of the manifest's terms under which it was made; absent: 0
ENQUEUED = "enqueued"  # the key of a user's request; see `study.inbox`
STOPPED = "stopped"  # a user asked for its end
IMPORTED = "imported_from"  # the study and number of an imported trial
IMPORTED_PARAMS = "imported_params"  # parameters that do not fit the study's space
IMPORTED_REPORTS = "imported_reports"  # reports of an imported trial
REPORT_PREFIX, REPEAT_PREFIX, PROMOTED_PREFIX = "report/", "repeat/", "promoted/"

READY = "ready"  # user attribute of a complete generation above the first

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)  # of the trials that samplers learn from
_STATUS: Mapping[TrialState, Status] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def stored_name(name: str, generation: int) -> str:
    """Optuna's name for a generation, counted from 1."""
    return name if generation == 1 else f"{name}@{generation}"


def current_generation(storage: BaseStorage, name: str) -> int:
    """The highest complete generation; 1 where there is no study of this name yet."""
    later = re.compile(rf"{re.escape(name)}@(\d+)")
    found = [
        int(match[1])
        for study in storage.get_all_studies()
        if (match := later.fullmatch(study.study_name)) and study.user_attrs.get(READY)
    ]
    return max(found, default=1)


def current_name(storage: BaseStorage, name: str) -> str:
    """Optuna's name for the current generation of a search."""
    return stored_name(name, current_generation(storage, name))


def study_directions(storage: BaseStorage, name: str) -> tuple[Direction, ...]:
    """Whether each objective of a search, which the storage must hold, is minimized or maximized."""
    stored = storage.get_study_id_from_name(current_name(storage, name))
    return tuple(
        "maximize" if way == StudyDirection.MAXIMIZE else "minimize"
        for way in storage.get_study_directions(stored)
    )


def trial_folder(study_folder: Path, number: int) -> Path:
    """Where a trial keeps its configuration, checkpoints and pictures."""
    return study_folder / "trials" / f"{number:05d}"


def report_key(report: Report) -> str:
    """The user attribute that holds a report, its values and its decision."""
    return f"{REPEAT_PREFIX}{report.repeat}" if report.repeat else rung_key(report.images)


def rung_key(images: int) -> str:
    """The user attribute of the report of a trial's own run at `images` images."""
    return f"{REPORT_PREFIX}{images}"


def promoted_key(images: int) -> str:
    """The user attribute with the reason why a trial paused at `images` images was promoted."""
    return f"{PROMOTED_PREFIX}{images}"


def stored_reports(trial: FrozenTrial) -> dict[int, dict[str, Any]]:
    """images -> {"report", "value", "values", "verdict"} of its own run, ascending in images."""
    return _entries(trial, REPORT_PREFIX)


def stored_repeats(trial: FrozenTrial) -> dict[int, dict[str, Any]]:
    """k -> the same of its k-th repeat on another seed, ascending."""
    return _entries(trial, REPEAT_PREFIX)


def stored_values(entry: Mapping[str, Any]) -> tuple[float, ...]:
    """The objectives of a stored report; early revisions stored a single value only."""
    return tuple(entry["values"]) if "values" in entry else (entry["value"],)


def decision_at(trial: FrozenTrial, images: int) -> Decision:
    """The decision on a trial at a rung that it has reported: the first one, or its promotion."""
    promoted = trial.user_attrs.get(promoted_key(images))
    if promoted is not None:
        return Decision(True, promoted)
    return Decision(**trial.user_attrs[rung_key(images)]["verdict"])


def paused_at(trial: FrozenTrial) -> int | None:
    """Images of the rung at which a trial waits for promotion; None where it does not wait."""
    if trial.state != TrialState.RUNNING:
        return None
    attrs = trial.user_attrs
    images: int | None = attrs.get(PAUSED)
    if images is None or OUTCOME in attrs or promoted_key(images) in attrs:
        return None
    return images


def all_params(trial: FrozenTrial) -> dict[str, Any]:
    """All parameters that a trial was trained with, including those that do not fit its study."""
    left_out: dict[str, Any] = trial.user_attrs.get(IMPORTED_PARAMS, {})
    return trial.params | left_out


class TrialCache(Generic[T]):
    """`make(trial)`, computed again only when the trial has changed.

    Storages never change a trial that they returned: a write replaces the object.
    """

    def __init__(self, make: Callable[[FrozenTrial], T]) -> None:
        self._make = make
        self._known: dict[int, tuple[FrozenTrial, T]] = {}

    def __call__(self, trial: FrozenTrial) -> T:
        entry = self._known.get(trial._trial_id)
        if entry is None or entry[0] is not trial:
            entry = self._known[trial._trial_id] = trial, self._make(trial)
        return entry[1]

    def each(self, trials: Iterable[FrozenTrial]) -> list[T]:
        """In the order of the trials."""
        return [self(trial) for trial in trials]


def relocate_artifacts(report: Report, folder: Path) -> Report:
    """The report with the paths of its artifacts in `folder`, where the trial's folder is now.

    What the study says is elsewhere is left out: whoever can write the study must not name any file of a
    user who reads it.
    """
    marker = f"/trials/{folder.name}/"
    artifacts = {}
    for name, path in report.artifacts.items():
        _, found, inside = path.rpartition(marker)
        place = str(folder / inside) if found else path
        # Of text alone: ten thousand trials must not ask the file system for each.
        if os.path.normpath(place).startswith(f"{folder}{os.sep}"):
            artifacts[name] = place
    return report if artifacts == report.artifacts else replace(report, artifacts=artifacts)


def to_record(trial: FrozenTrial, study_name: str, study_folder: Path) -> TrialRecord:
    """The record of a trial whose configuration is stored."""
    attrs, folder = trial.user_attrs, trial_folder(study_folder, trial.number)
    entries = stored_reports(trial)
    rung_values = tuple(stored_values(entry) for entry in entries.values())
    values = rung_values[-1] if rung_values else ()
    outcome = attrs.get(OUTCOME, {})
    if trial.state.is_finished():
        status = outcome.get("status", _STATUS[trial.state])
    else:
        status = "running" if paused_at(trial) is None else "paused"
    return TrialRecord(
        study=study_name,
        number=trial.number,
        status=status,
        params=all_params(trial),
        config=attrs[CONFIG],
        value=values[0] if len(values) == 1 else None,
        baseline=attrs.get(BASELINE),
        reports=_reports(entries, folder),
        reason=outcome.get("reason", ""),
        attempt=attrs.get(ATTEMPT, 0),
        folder=str(folder),
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
        values=values,
        rung_values=rung_values,
        decisions=tuple(decision_at(trial, images).reason for images in entries),
        repeats=_reports(stored_repeats(trial), folder),
        protected=bool(attrs.get(PROTECTED, False)),
        bracket=int(attrs.get(BRACKET, 0)),
        terms=int(attrs.get(TERMS, 0)),
        enqueued=ENQUEUED in attrs,
    )


def read_records(storage: BaseStorage, study_name: str, study_folder: Path) -> list[TrialRecord]:
    """All trials of a search that have a configuration, except imported ones, by number.

    Raises:
        StorageError: the storage holds no study of this name.
    """
    try:
        stored = current_name(storage, study_name)
        trials = storage.get_all_trials(storage.get_study_id_from_name(stored), deepcopy=False)
    except KeyError:
        known = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none"
        raise StorageError(f"there is no study {study_name!r}; known: {known}") from None
    return [
        to_record(trial, study_name, study_folder)
        for trial in trials
        if CONFIG in trial.user_attrs and IMPORTED not in trial.user_attrs
    ]


def trial_states(storage: BaseStorage, study_name: str) -> dict[int, str]:
    """number -> status, `waiting` where it was not handed out yet, of all but imported trials.

    Raises:
        StorageError: the storage holds no study of this name.
    """
    try:
        study_id = storage.get_study_id_from_name(current_name(storage, study_name))
    except KeyError:
        raise StorageError(f"there is no study {study_name!r}") from None
    states = {}
    for trial in storage.get_all_trials(study_id, deepcopy=False):
        if IMPORTED in trial.user_attrs:
            continue
        ended = trial.state.is_finished()
        open_state = "paused" if paused_at(trial) is not None else trial.state.name.lower()
        outcome = trial.user_attrs.get(OUTCOME, {}).get("status")
        states[trial.number] = (outcome or _STATUS[trial.state]) if ended else open_state
    return states


def best_record(
    records: list[TrialRecord], direction: str = "minimize", baseline: bool | None = None
) -> TrialRecord | None:
    """The completed trial with the best value, the lowest number among equals.

    baseline: True for baselines only, False for proposed trials only, None for all.
    """
    sign = 1.0 if direction == "minimize" else -1.0
    done = [
        (sign * record.value, record.number, record)
        for record in records
        if record.status == "completed"
        and record.value is not None
        and baseline in (None, record.baseline is not None)
    ]
    return min(done, key=lambda entry: entry[:2])[2] if done else None


def _entries(trial: FrozenTrial, prefix: str) -> dict[int, dict[str, Any]]:
    found = {
        int(key.removeprefix(prefix)): entry
        for key, entry in trial.user_attrs.items()
        if key.startswith(prefix)
    }
    return dict(sorted(found.items()))


def _reports(entries: Mapping[int, Mapping[str, Any]], folder: Path) -> tuple[Report, ...]:
    return tuple(
        relocate_artifacts(Report(**entry["report"]), folder) for entry in entries.values()
    )
