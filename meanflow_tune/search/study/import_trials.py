"""Warm starts: finished trials of another study as the first trials of a new one.

Only the sampler uses them: with the attribute `imported_from` they count for no total, no rung and no
best, since they have no files here, and were trained under other terms.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from meanflow_tune.records import Report
from meanflow_tune.search.errors import StudyChanged
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.space.distributions import Distributions, fit_params
from meanflow_tune.search.store.manifest import Manifest, compare
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.trials import (
    CONFIG,
    FINISHED,
    IMPORTED,
    IMPORTED_PARAMS,
    IMPORTED_REPORTS,
    all_params,
    current_name,
    stored_reports,
)
from meanflow_tune.search.study.generations import add_trials, constraints_of, stored_results
from meanflow_tune.search.study.relocate import find_study

DONE = "imported"  # user attribute of a study whose import is complete
IMPORTED_CONFIG = "imported_config"

log = logging.getLogger(__name__)


def find_origin(text: str, storage: Path) -> Path:
    """The folder that `--import-study` names: STUDY in the same storage folder, or FOLDER/STUDY.

    Raises:
        StudyChanged: there is no such folder.
    """
    folder = Path(text).expanduser() if "/" in text else storage / text
    if not folder.is_dir() or text in ("", ".", ".."):
        raise StudyChanged(
            f"--import-study {text}: there is no study folder {folder}; give the name of a study of"
            f" {storage}, or FOLDER/STUDY"
        )
    return folder.absolute()


def import_study(
    storage: BaseStorage,
    name: str,
    origin: Path,
    distributions: Distributions,
    objectives: Objectives,
    terms: Manifest | None = None,
    say: Callable[[str], None] = log.info,
) -> int:
    """Add the finished trials of the study in folder `origin`; returns how many were added.

    Repeated, also after a kill, it adds each trial once. terms: of this search, to list how those of
    the origin differ.

    Raises:
        StudyChanged: the study already has its own trials, or imported another study; no parameter of
            the origin fits the space; one of its trials lacks a metric of the objectives.
        StorageError: the origin cannot be read.
    """
    stored = current_name(storage, name)
    known = stored in optuna.get_all_study_names(storage)
    study_id = storage.get_study_id_from_name(stored) if known else None
    present: set[int] = set()
    if study_id is not None:
        done = storage.get_study_user_attrs(study_id).get(DONE)
        if done == origin.name:
            return 0
        trials = storage.get_all_trials(study_id, deepcopy=False)
        own = [trial for trial in trials if IMPORTED not in trial.user_attrs]
        sources = {trial.user_attrs[IMPORTED]["study"] for trial in trials if trial not in own}
        if done is not None or own or sources - {origin.name}:
            what = f"imported {done or ', '.join(sources)}" if done or sources else "has trials"
            raise StudyChanged(
                f"--import-study {origin.name}: study {name} already {what}, and an import comes"
                " before the first trial; omit it, or give the search another study name"
            )
        present = {trial.user_attrs[IMPORTED]["number"] for trial in trials}
    _list_differences(origin, terms, say)
    source = open_storage(find_study(origin, None))
    finished = [
        trial
        for trial in _trials(source, origin.name)
        if trial.state in FINISHED and CONFIG in trial.user_attrs
    ]
    converted = [_convert(trial, origin.name, distributions, objectives) for trial in finished]
    fitting = [trial for trial in converted if trial.params]
    if not fitting:
        raise StudyChanged(
            f"--import-study {origin.name}: none of its {len(finished)} finished trials has a"
            " parameter that fits the space; omit it"
        )
    if study_id is None:
        directions = [StudyDirection[d.upper()] for d in objectives.directions]
        study_id = storage.create_new_study(directions, stored)
    missing = [t for t in fitting if t.user_attrs[IMPORTED]["number"] not in present]
    add_trials(storage, study_id, missing, say)
    storage.set_study_user_attr(study_id, DONE, origin.name)
    left_out = sorted({key for t in fitting for key in t.user_attrs.get(IMPORTED_PARAMS, {})})
    without = f"; parameters that do not fit: {', '.join(left_out)}" if left_out else ""
    say(f"imported {len(fitting)} of {len(finished)} finished trials of {origin.name}{without}")
    return len(missing)


def _trials(source: BaseStorage, name: str) -> list[FrozenTrial]:
    try:
        study_id = source.get_study_id_from_name(current_name(source, name))
    except KeyError:
        raise StudyChanged(
            f"--import-study {name}: its storage holds no study of this name; was the folder renamed?"
        ) from None
    return source.get_all_trials(study_id)


def _convert(
    trial: FrozenTrial, origin: str, distributions: Distributions, objectives: Objectives
) -> FrozenTrial:
    fitted = fit_params(all_params(trial), distributions)
    entries = stored_reports(trial)
    reports = [Report(**entry["report"]) for entry in entries.values()]
    try:
        intermediate, values = stored_results(trial.state, reports, objectives)
    except ValueError as error:
        raise StudyChanged(
            f"--import-study {origin}: trial {trial.number}: {error}; omit the import, or use"
            " objectives that study measured"
        ) from None
    attrs: dict[str, Any] = {
        IMPORTED: {"study": origin, "number": trial.number},
        IMPORTED_CONFIG: trial.user_attrs[CONFIG],
        # Not under the keys of reports, so that they count at no rung; other objectives need them.
        IMPORTED_REPORTS: {str(images): entry["report"] for images, entry in entries.items()},
    }
    if fitted.left_out:
        attrs[IMPORTED_PARAMS] = fitted.left_out
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=trial.state,
        value=None,
        values=values,
        datetime_start=trial.datetime_start or datetime.now(),
        datetime_complete=trial.datetime_complete or datetime.now(),
        params=fitted.params,
        distributions=fitted.distributions,
        user_attrs=attrs,
        system_attrs=constraints_of(trial),
        intermediate_values=intermediate,
    )


def _list_differences(origin: Path, terms: Manifest | None, say: Callable[[str], None]) -> None:
    theirs = Manifest.read(origin)
    if theirs is None or terms is None:
        return
    for change in compare(theirs, terms, ("overrides", "data_fingerprint", "seeds", "versions")):
        say(f"note: in {origin.name}, {change} here")
