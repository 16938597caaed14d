"""Generations of a study: a new one takes over all trials where Optuna cannot change a study in place.

Optuna refuses other choices, another kind or another scale of a parameter under the same name, and
other objectives in the same study. A generation is a separate study, NAME@k, that starts with all
trials of the previous one: the same numbers, states, reports and decisions. It counts once it is
complete (`current_generation`); the previous one does not change.
"""

import copy
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.records import INFEASIBLE, Report
from meanflow_tune.search.errors import StudyChanged
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.space.distributions import Distributions, conflicts, fit_params
from meanflow_tune.search.space.draws import Suggest, draw_fixed
from meanflow_tune.search.store.trials import (
    BASELINE,
    CONFIG,
    IMPORTED,
    IMPORTED_PARAMS,
    IMPORTED_REPORTS,
    READY,
    REPEAT_PREFIX,
    all_params,
    current_generation,
    current_name,
    rung_key,
    stored_name,
    stored_repeats,
    stored_reports,
)
from meanflow_tune.search.study.writer import FIXED, OBJECTIVE, plain

FORMER_BASELINE = "former_baseline"
SAY_SECONDS = 10.0  # between progress messages of a long copy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """What a study must be able to continue with.

    distributions: of the space's parameters, None for unchanged ones; suggest: returns the
    configuration of a trial; baselines: name -> parameters.
    """

    objectives: Objectives
    distributions: Distributions | None = None
    suggest: Suggest | None = None
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialCount:
    """Trials of a study that are not imported: all of them, and the unfinished ones."""

    all: int
    unfinished: int


def count_trials(storage: BaseStorage, name: str) -> TrialCount:
    """How many trials a search has, imported ones excluded; 0 where there is no study."""
    stored = current_name(storage, name)
    try:
        study_id = storage.get_study_id_from_name(stored)
    except KeyError:
        return TrialCount(0, 0)
    own = [
        trial
        for trial in storage.get_all_trials(study_id, deepcopy=False)
        if IMPORTED not in trial.user_attrs
    ]
    return TrialCount(len(own), sum(not trial.state.is_finished() for trial in own))


def reasons(storage: BaseStorage, name: str, target: Target) -> list[str]:
    """Why the current generation of a study cannot continue in place; empty where it can."""
    stored = stored_name(name, current_generation(storage, name))
    try:
        study = optuna.load_study(study_name=stored, storage=storage)
    except KeyError:
        return []
    found = []
    made_for = study.user_attrs.get(OBJECTIVE)
    if made_for is not None and not _same_objectives(study, made_for, target.objectives):
        found.append(f"the objective was {made_for[0]} and is {target.objectives}")
    trials = study.get_trials(deepcopy=False)
    if target.distributions is not None:
        found += conflicts(trials, target.distributions).values()
    for trial in trials:
        baseline = trial.user_attrs.get(BASELINE)
        params = target.baselines.get(baseline or "")
        if params is not None and params != trial.system_attrs.get(FIXED):
            found.append(f"baseline {baseline} has other parameters")
    return found


def make_generation(
    storage: BaseStorage, name: str, target: Target, say: Callable[[str], None] = log.info
) -> int | None:
    """Make a new generation where one is needed; returns its number, or None.

    An incomplete generation, left by a kill, is deleted and made again.

    Raises:
        StudyChanged: a trial lacks a metric of the new objectives.
    """
    why = reasons(storage, name, target)
    if not why:
        return None
    now = current_generation(storage, name)
    source = optuna.load_study(study_name=stored_name(name, now), storage=storage)
    trials = source.get_trials(deepcopy=False)
    # All trials are converted before the first write, so that an error leaves nothing behind.
    converted = [_convert(trial, target) for trial in trials]
    stored = stored_name(name, now + 1)
    say(
        f"the study continues as generation {now + 1} with its {len(converted)} trials:"
        f" {'; '.join(why)}"
    )
    if stored in optuna.get_all_study_names(storage):  # left by a kill
        storage.delete_study(storage.get_study_id_from_name(stored))
    directions = [StudyDirection[d.upper()] for d in target.objectives.directions]
    study_id = storage.create_new_study(directions, stored)
    for key, value in source.user_attrs.items():
        if key not in (READY, OBJECTIVE):
            storage.set_study_user_attr(study_id, key, value)
    add_trials(storage, study_id, converted, say)
    storage.set_study_user_attr(study_id, READY, True)
    return now + 1


def add_trials(
    storage: BaseStorage, study_id: int, trials: Sequence[FrozenTrial], say: Callable[[str], None]
) -> None:
    """Append trials unchanged; their numbers follow from the order."""
    last = time.monotonic()
    for index, trial in enumerate(trials, start=1):
        storage.create_new_trial(study_id, template_trial=trial)
        if time.monotonic() - last > SAY_SECONDS:
            last = time.monotonic()
            say(f"{index} of {len(trials)} trials copied")


def recompute_values(entry: Mapping[str, Any], objectives: Objectives) -> dict[str, Any]:
    """A stored report with the values of other objectives and its original decision.

    Raises ValueError where the report lacks a metric.
    """
    values = objectives.values(Report(**entry["report"]))
    single = values[0] if len(values) == 1 else None
    return {**entry, "value": single, "values": list(values)}


def stored_results(
    state: TrialState, reports: Sequence[Report], objectives: Objectives
) -> tuple[dict[int, float], list[float] | None]:
    """Optuna's intermediate and final values of a trial with these reports.

    Intermediate values exist for a single objective only; final ones for complete trials, and with a
    single objective for pruned ones too. Raises ValueError where a report lacks a metric.
    """
    values = {report.images: objectives.values(report) for report in reports}
    single = objectives.single is not None
    intermediate = {images: value[0] for images, value in values.items()} if single else {}
    kept = state == TrialState.COMPLETE or (single and state == TrialState.PRUNED)
    return intermediate, list(values[max(values)]) if values and kept else None


def constraints_of(trial: FrozenTrial) -> dict[str, float]:
    """System attributes with all constraints of a trial; one that it lacks is satisfied (0)."""
    return {f"constraints:{name}": trial.constraints.get(name, 0.0) for name in INFEASIBLE}


def _same_objectives(study: optuna.Study, made_for: Any, objectives: Objectives) -> bool:
    directions = tuple(direction.name.lower() for direction in study.directions)
    return bool(made_for[0] == str(objectives) and directions == objectives.directions)


def _convert(trial: FrozenTrial, target: Target) -> FrozenTrial:
    new = copy.deepcopy(trial)
    if target.distributions is not None:
        _convert_params(new, trial, target)
    stored = [entry["report"] for entry in stored_reports(trial).values()]
    stored += trial.user_attrs.get(IMPORTED_REPORTS, {}).values()
    reports = [Report(**report) for report in stored]
    try:
        for images, entry in stored_reports(trial).items():
            new.user_attrs[rung_key(images)] = recompute_values(entry, target.objectives)
        for k, entry in stored_repeats(trial).items():
            new.user_attrs[f"{REPEAT_PREFIX}{k}"] = recompute_values(entry, target.objectives)
        new.intermediate_values, new.values = stored_results(
            trial.state, reports, target.objectives
        )
    except ValueError as error:
        raise StudyChanged(
            f"trial {trial.number}: {error}; keep the objective, or give the search another study name"
        ) from None
    return new


def _convert_params(new: FrozenTrial, trial: FrozenTrial, target: Target) -> None:
    assert target.distributions is not None
    attrs, system = new.user_attrs, new.system_attrs
    new.system_attrs = {
        key: value for key, value in system.items() if key == FIXED or key.endswith(":generation")
    }
    if trial.constraints:
        new.system_attrs |= constraints_of(trial)
    # A trial without a configuration, left by a kill, is drawn again from the new space.
    params = all_params(trial) if CONFIG in attrs or IMPORTED in attrs else {}
    baseline = target.baselines.get(attrs.get(BASELINE, ""))
    if baseline is not None and baseline != new.system_attrs.get(FIXED):
        if CONFIG not in attrs or _has_config(target, baseline, attrs[CONFIG]):
            # The same configuration, with other parameters.
            new.system_attrs[FIXED] = dict(baseline)
            params = dict(baseline) if CONFIG in attrs else {}
        else:
            # The name now stands for another configuration, which is run as a new trial.
            attrs[FORMER_BASELINE] = attrs.pop(BASELINE)
    fitted = fit_params(params, target.distributions)
    new.params, new.distributions = fitted.params, fitted.distributions
    attrs.pop(IMPORTED_PARAMS, None)
    if fitted.left_out:
        attrs[IMPORTED_PARAMS] = fitted.left_out


def _has_config(target: Target, params: Mapping[str, Any], config: Any) -> bool:
    assert target.suggest is not None
    fixed = plain(draw_fixed(target.suggest, params).config)
    return json.dumps(fixed, sort_keys=True) == json.dumps(config, sort_keys=True)
