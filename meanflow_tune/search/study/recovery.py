"""What a kill left undone in a study, completed by the next driver."""

from collections.abc import Callable
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.records import Outcome
from meanflow_tune.search.pruning.pruner import last_rung
from meanflow_tune.search.store.trials import (
    CONFIG,
    OUTCOME,
    PAUSED,
    STOPPED,
    decision_at,
    paused_at,
    stored_reports,
    stored_values,
)
from meanflow_tune.search.study.writer import STOPPED_BY_USER, StudyWriter


def recover(writer: StudyWriter, pauses: bool, resolve: Callable[[int], Any]) -> None:
    """Complete the steps that a kill interrupted, in their original order.

    pauses: a trial that stops at a rung may be promoted later; resolve: draws and stores a configuration.
    """
    running = [t for t in writer.trials() if t.state == TrialState.RUNNING]
    for trial in running:
        resolve(trial.number)
    for trial in running:
        for images, entry in stored_reports(trial).items():
            if images not in trial.intermediate_values:
                writer.set_intermediate(trial.number, images, stored_values(entry))
        if OUTCOME not in trial.user_attrs:
            outcome = _missed(writer, trial, pauses)
            if outcome is None:
                continue
            writer.set_attr(trial.number, OUTCOME, outcome.to_dict())
        writer.tell(trial.number)


def _missed(writer: StudyWriter, trial: FrozenTrial, pauses: bool) -> Outcome | None:
    """The outcome that a trial had but for a kill; None where it had none. A missed pause is stored."""
    if STOPPED in trial.user_attrs:
        return STOPPED_BY_USER
    entries = stored_reports(trial)
    if not entries or paused_at(trial) is not None:
        return None
    images = max(entries)
    decision = decision_at(trial, images)
    # At the last rung the decision is about repeats only.
    config = writer.trial(trial.number).user_attrs[CONFIG]
    if decision.go_on or images >= last_rung(config):
        return None
    if pauses:
        writer.set_attr(trial.number, PAUSED, images)
        return None
    return Outcome("pruned", decision.reason)
