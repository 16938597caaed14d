"""The view that samplers get: paused trials are pruned in it, and all else is what the storage holds."""

from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from meanflow_tune.search.samplers.factory import SAMPLER_KINDS, SamplerKind
from meanflow_tune.search.samplers.history import SamplerView
from meanflow_tune.search.store.trials import OUTCOME, PAUSED, promoted_key
from tests.support.sampler_history import ask, finished, grid, made, study_of

RUNGS = {10: 0.9, 20: 0.7}
WAITS: dict[str, Any] = {PAUSED: 20}


def running(user: dict[str, Any], rungs: dict[int, float] | None = None) -> FrozenTrial:
    return made(
        grid(3), state=TrialState.RUNNING, rungs=RUNGS if rungs is None else rungs, user=user
    )


def as_seen(trial: FrozenTrial, objectives: int = 1) -> FrozenTrial:
    study = study_of([trial], objectives)
    view = SamplerView(study._storage)
    (seen,) = view.get_all_trials(study._study_id, deepcopy=False)
    assert view.get_trial(seen._trial_id) == seen
    assert study.trials[0].state == trial.state, "the storage itself has changed"
    return seen


def test_a_paused_trial_is_seen_as_tell_would_leave_it() -> None:
    seen = as_seen(running(WAITS))
    told = study_of([running(WAITS)])
    told.tell(0, state=TrialState.PRUNED)
    for field in (
        "state",
        "values",
        "params",
        "distributions",
        "intermediate_values",
        "user_attrs",
    ):
        assert getattr(seen, field) == getattr(told.trials[0], field)
    assert seen.value == 0.7


def test_without_a_usable_value_it_has_none() -> None:
    assert as_seen(running(WAITS, {})).values is None
    assert as_seen(running(WAITS, {10: 0.5, 20: float("nan")})).values is None
    several = as_seen(running(WAITS, {}), objectives=2)
    assert (several.state, several.values) == (TrialState.PRUNED, None)


@pytest.mark.parametrize(
    "trial",
    [
        running({}),
        running({PAUSED: None}),
        running(WAITS | {promoted_key(20): "among the best by now"}),
        running(WAITS | {OUTCOME: {"status": "failed"}}),
        made(grid(1), state=TrialState.FAIL, user=WAITS),
        made(grid(1), state=TrialState.PRUNED, rungs=RUNGS, user=WAITS),
        made(grid(1), [0.5], user=WAITS),
    ],
    ids=["running", "none", "promoted", "ending", "fail", "pruned", "complete"],
)
def test_others_are_passed_on_as_they_are(trial: FrozenTrial) -> None:
    study = study_of([trial])
    view = SamplerView(study._storage)
    (seen,) = view.get_all_trials(study._study_id, deepcopy=False)
    (stored,) = study._storage.get_all_trials(study._study_id, deepcopy=False)
    assert seen is stored, "a copy costs time with many trials"


def test_states_are_those_that_are_seen() -> None:
    study = study_of([*finished(2), running(WAITS), running({})])
    view = SamplerView(study._storage, asking=study.trials[3]._trial_id)
    found = {
        state.name: [t.number for t in view.get_all_trials(study._study_id, True, (state,))]
        for state in TrialState
    }
    assert found == {"COMPLETE": [0, 1], "PRUNED": [2], "RUNNING": [], "FAIL": [], "WAITING": []}
    assert view.get_n_trials(study._study_id, TrialState.PRUNED) == 1
    copies = view.get_all_trials(study._study_id)
    copies[0].params["x"] = 99.0
    assert study.trials[0].params["x"] != 99.0


def test_every_method_of_a_storage_goes_through() -> None:
    """Writes by the view are what the wrapped storage holds."""
    inner = InMemoryStorage()
    view = SamplerView(inner)
    study = optuna.create_study(study_name="s", storage=view)
    study.set_user_attr("a", 1)
    study.enqueue_trial({"x": 0.5})
    trial = study.ask()
    assert trial.suggest_float("x", 0, 1) == 0.5
    trial.report(0.3, 5)
    trial.set_user_attr("b", 2)
    trial.set_constraint("c", -1.0)
    study.tell(trial, 0.2)
    ours, plain = study, optuna.load_study(study_name="s", storage=inner)
    assert ours.trials == plain.trials
    assert plain.trials[0].intermediate_values == {5: 0.3}
    assert plain.trials[0].constraints == {"c": -1.0}
    assert (plain.user_attrs, plain.best_value, ours.best_value) == ({"a": 1}, 0.2, 0.2)
    assert view.get_trial_id_from_study_id_trial_number(plain._study_id, 0) == trial._trial_id
    assert [one.study_name for one in view.get_all_studies()] == ["s"]
    view.delete_study(plain._study_id)
    assert inner.get_all_studies() == []


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
def test_a_paused_trial_teaches_what_a_pruned_one_does(kind: SamplerKind) -> None:
    """A trap: a trial left RUNNING repels for ever, by TPE's constant liar and GP's running trials."""

    # With one completed trial, the best pruned one counts as good in TPE.
    worse = [made(grid(i), state=TrialState.PRUNED, rungs={20: 0.8 + i}) for i in range(9)]

    def asked(last: FrozenTrial) -> list[dict[str, Any]]:
        history = [*finished(9 if kind == "gp" else 1), *worse, last]
        return [ask(study_of(history), kind, seed) for seed in range(1 if kind == "gp" else 8)]

    near = {"x": 0.31, "y": 0.02}  # beside the best
    pruned = made(near, state=TrialState.PRUNED, rungs=RUNGS)
    waits = made(near, state=TrialState.RUNNING, rungs=RUNGS, user=WAITS)
    runs = made(near, state=TrialState.RUNNING, rungs=RUNGS)
    assert asked(waits) == asked(pruned)
    if kind in ("tpe", "gp"):
        assert asked(runs) != asked(pruned), "these two are what the view is for"


def test_a_trial_that_is_asked_for_is_not_in_its_own_history() -> None:
    study = study_of([*finished(2), running({})])
    again = optuna.load_study(
        study_name=study.study_name,
        storage=SamplerView(study._storage, asking=study.trials[2]._trial_id),
    )
    assert [trial.number for trial in again.trials] == [0, 1]
    assert Trial(again, study.trials[2]._trial_id).number == 2
