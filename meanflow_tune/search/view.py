"""Reading a study: Optuna's trials as TrialRecords. Nothing here writes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.records import Report, Status, TrialRecord
from meanflow_tune.search.current import current_name, every_param
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.moved import here
from meanflow_tune.search.rungs import Verdict

BASELINE, CONFIG, ATTEMPT, OUTCOME = "baseline", "config", "attempt", "outcome"
REPORT_PREFIX = "report/"

_STATUS: Mapping[TrialState, Status] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def trial_folder(study_folder: Path, number: int) -> Path:
    """Where a trial keeps its configuration, checkpoints and pictures."""
    return study_folder / "trials" / f"{number:05d}"


def report_key(images: int) -> str:
    """The user attribute that holds the report, its value and its verdict at `images` images."""
    return f"{REPORT_PREFIX}{images}"


def stored_reports(trial: FrozenTrial) -> dict[int, dict[str, Any]]:
    """images -> {"report", "value", "verdict"}, ascending in images."""
    found = {
        int(key.removeprefix(REPORT_PREFIX)): entry
        for key, entry in trial.user_attrs.items()
        if key.startswith(REPORT_PREFIX)
    }
    return dict(sorted(found.items()))


def stored_verdict(entry: Mapping[str, Any]) -> Verdict:
    """The verdict that was given with a stored report."""
    return Verdict(**entry["verdict"])


def to_record(trial: FrozenTrial, study_name: str, study_folder: Path) -> TrialRecord:
    """A trial whose configuration is stored, as the other layers see it."""
    attrs, folder = trial.user_attrs, trial_folder(study_folder, trial.number)
    entries = list(stored_reports(trial).values())
    outcome = attrs.get(OUTCOME, {})
    return TrialRecord(
        study=study_name,
        number=trial.number,
        status=outcome.get("status", _STATUS[trial.state])
        if trial.state.is_finished()
        else "running",
        params=every_param(trial),
        config=attrs[CONFIG],
        value=entries[-1]["value"] if entries else None,
        baseline=attrs.get(BASELINE),
        reports=tuple(here(Report(**entry["report"]), folder) for entry in entries),
        reason=outcome.get("reason", ""),
        attempt=attrs.get(ATTEMPT, 0),
        folder=str(folder),
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
    )


def read_records(storage: BaseStorage, study_name: str, study_folder: Path) -> list[TrialRecord]:
    """All trials of a study that have a configuration, in order of their numbers.

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
        to_record(trial, study_name, study_folder) for trial in trials if CONFIG in trial.user_attrs
    ]


def best_record(
    records: list[TrialRecord], direction: str = "minimize", baseline: bool | None = None
) -> TrialRecord | None:
    """The completed trial with the best value, the lowest number among equals.

    baseline: True for baselines only, False for proposed trials only, None for all.
    """
    done = [
        (record.value if direction == "minimize" else -record.value, record.number, record)
        for record in records
        if record.status == "completed"
        and record.value is not None
        and baseline in (None, record.baseline is not None)
    ]
    return min(done, key=lambda entry: entry[:2])[2] if done else None
