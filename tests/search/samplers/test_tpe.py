"""TPE suggests the same with its cache as without."""

import random
from typing import Any
from weakref import WeakKeyDictionary

import optuna
import pytest
from optuna.trial import Trial, TrialState

from meanflow_tune.search.samplers import factory, history
from meanflow_tune.search.samplers.factory import make_sampler
from meanflow_tune.search.samplers.history import SamplerView
from meanflow_tune.search.space.load import load_space
from meanflow_tune.search.store.changes import StudyTrials
from meanflow_tune.search.store.trials import CONFIG, PAUSED, paused_at, promoted_key, rung_key

SPACE = load_space("second_order")


def filled(directions: int, seed: int, count: int = 40) -> optuna.Study:
    """A study with trials of every state and kind: infeasible, paused, pruned early, running."""
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(),
        directions=["minimize"] * directions,
        sampler=optuna.samplers.RandomSampler(seed=seed),
    )
    draw = random.Random(seed)
    for number in range(count):
        trial = study.ask()
        SPACE.suggest(trial)
        trial.set_user_attr(CONFIG, {})
        for images in (10, 20, 30)[: draw.randint(0, 3)]:
            trial.set_user_attr(rung_key(images), {"value": 1.0})
            if directions == 1:
                trial.report(draw.random(), images)
        trial.set_constraint("diverged", float(draw.random() < 0.2))
        trial.set_constraint("out_of_memory", 0.0)
        what = number % 5
        if what == 0:
            trial.set_user_attr(PAUSED, 10)
        elif what == 1:
            study.tell(trial, state=TrialState.PRUNED)
        elif what == 2 and number > 35:
            continue  # runs on
        elif what == 3 and number % 2:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, [draw.random() for _ in range(directions)])
    return study


def suggestion(study: optuna.Study, number: int) -> dict[str, Any]:
    """What trial `number` is given; the study is as before afterwards."""
    sampler = make_sampler("tpe", 3, number, 8)
    asked = study.ask()
    seen = optuna.load_study(study_name=study.study_name, storage=study._storage, sampler=sampler)
    trial = Trial(seen, asked._trial_id)
    SPACE.suggest(trial)
    study.tell(asked, state=TrialState.FAIL)
    return dict(trial.params)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_a_cached_view_changes_no_suggestion(
    directions: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = filled(directions, seed)
    cached = [suggestion(study, number) for number in range(40, 44)]
    monkeypatch.setattr(factory, "CachedView", SamplerView)
    monkeypatch.setattr(factory, "CachedTPE", optuna.samplers.TPESampler)
    assert cached == [suggestion(study, number) for number in range(40, 44)]
    assert len({tuple(sorted(one.items())) for one in cached}) == 4


@pytest.mark.parametrize("directions", [1, 2])
def test_a_search_that_goes_on_takes_the_same_way(
    directions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept from ask to ask is brought up to date: new trials, running ones, other states."""

    def search() -> list[dict[str, Any]]:
        study, draw = filled(directions, 1), random.Random(7)
        running: list[Trial] = []
        asked = []
        for number in range(40, 64):
            sampler = make_sampler("tpe", 3, number, 8)
            seen = optuna.load_study(
                study_name=study.study_name, storage=study._storage, sampler=sampler
            )
            trial = Trial(seen, study.ask()._trial_id)
            SPACE.suggest(trial)
            asked.append(dict(trial.params))
            running.append(trial)
            if number % 4 == 3:  # each of the last four ends at random, or runs on
                for one in running:
                    if draw.random() < 0.7:
                        study.tell(one.number, [draw.random() for _ in range(directions)])
                running.clear()
        return asked

    cached = search()
    monkeypatch.setattr(factory, "CachedView", SamplerView)
    monkeypatch.setattr(factory, "CachedTPE", optuna.samplers.TPESampler)
    assert cached == search()


def test_a_trial_that_changed_since_the_last_ask_is_seen_as_it_is_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = filled(1, 0)
    before = suggestion(study, 40)
    paused = [trial for trial in study.trials if paused_at(trial) is not None]
    for trial in paused[1:]:
        study._storage.set_trial_user_attr(trial._trial_id, promoted_key(10), "among the best")
    study._storage.set_trial_state_values(paused[0]._trial_id, TrialState.COMPLETE, [-1.0])
    after = suggestion(study, 40)
    monkeypatch.setattr(factory, "CachedView", SamplerView)
    monkeypatch.setattr(factory, "CachedTPE", optuna.samplers.TPESampler)
    assert after == suggestion(study, 40) != before
    monkeypatch.setattr(history, "PAUSED_COPIES", WeakKeyDictionary())
    assert after == suggestion(study, 40), "nor does the plain view hold on to what was"


def test_an_ask_reads_the_trials_of_a_study_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna reads them once for each of 15 groups of parameters."""
    study = filled(1, 0)
    suggestion(study, 40)
    reads = 0
    read = StudyTrials.update

    def counting(self: StudyTrials) -> Any:
        nonlocal reads
        reads += 1
        return read(self)

    monkeypatch.setattr(StudyTrials, "update", counting)
    monkeypatch.setattr(SamplerView, "get_all_trials", None)
    suggestion(study, 40)
    assert reads == 1
