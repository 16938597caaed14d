"""TPE models a bounded number of trials; which ones follows from what is stored alone."""

import gc
import random
import weakref
from collections.abc import Sequence

import optuna
import pytest
from optuna.samplers._tpe import sampler as tpe
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.search.pareto import non_dominated
from meanflow_tune.search.samplers import modelled
from meanflow_tune.search.samplers.history import shown
from meanflow_tune.search.samplers.modelled import ModelledTrials
from meanflow_tune.search.samplers.tpe import CachedView
from meanflow_tune.search.store.trials import FINISHED, PAUSED, promoted_key

NEWEST = 8


def step(study: Study, draw: random.Random) -> None:
    """Something happens: a trial starts, ends in some way, is paused, or is promoted."""
    running = [t for t in study.trials if t.state == TrialState.RUNNING]
    if len(running) < 6:
        trial = study.ask()
        trial.suggest_float("x", 0.0, 1.0)
        if draw.random() < 0.5:
            trial.suggest_float("y", 0.0, 1.0)
        return
    one = draw.choice(running)
    storage, number = study._storage, one._trial_id
    several = len(study.directions)
    match draw.randrange(5):
        case 0:
            if several == 1:
                storage.set_trial_intermediate_value(number, 10, draw.random())
            storage.set_trial_user_attr(number, PAUSED, 10)
        case 1:
            storage.set_trial_user_attr(number, promoted_key(10), "among the best by now")
        case 2:
            study.tell(one.number, state=TrialState.FAIL)
        case 3:
            storage.set_trial_system_attr(number, "constraints:diverged", draw.choice([0.0, 2.0]))
            study.tell(one.number, state=TrialState.PRUNED)
        case _:
            study.tell(one.number, [draw.choice([0.1, 0.2, draw.random()]) for _ in range(several)])


def defined(study: Study) -> list[int]:
    """The trials to be modelled, from the definition, by Optuna's own split."""
    seen = [shown(t) for t in study.get_trials(deepcopy=False)]
    finished = [t for t in seen if t.state in FINISHED]
    older, newest = finished[:-NEWEST], finished[-NEWEST:]
    running = [t for t in seen if t.state == TrialState.RUNNING]
    return sorted(t.number for t in (*best_of(study, older), *newest, *running))


def best_of(study: Study, older: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    if len(study.directions) == 1:
        return tpe._split_trials(study, list(older), tpe.default_gamma(NEWEST))[0]
    done = [t for t in older if t.state == TrialState.COMPLETE and not any(t.constraints.values())]
    if not done:
        return []
    front = non_dominated([t.values for t in done], ["minimize", "maximize"])
    found = [t for t, on in zip(done, front, strict=True) if on]
    return found[-tpe.default_gamma_multiobjective(NEWEST) :]


@pytest.mark.parametrize("directions", [["minimize"], ["maximize"], ["minimize", "maximize"]])
@pytest.mark.parametrize("seed", range(2))
def test_they_are_the_newest_the_running_and_the_best_of_the_older_ones(
    directions: list[str], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelled, "NEWEST", NEWEST)
    draw = random.Random(seed)
    study = optuna.create_study(
        storage=InMemoryStorage(),
        directions=directions,
        sampler=optuna.samplers.RandomSampler(seed=seed),
    )
    followed = ModelledTrials(study._storage, study._study_id)
    for happened in range(130):
        step(study, draw)
        if happened % draw.choice([1, 5]) == 0:
            followed.update()
            found = [trial.number for trial in followed.all()]
            assert found == defined(study)
    opened = ModelledTrials(study._storage, study._study_id)
    for index in (followed, opened):  # a resume models the same
        index.update()
        assert [trial.number for trial in index.all()] == defined(study)
        finished = [t for t in map(shown, study.trials) if t.state in FINISHED]
        assert index.finished == len(finished) > 2 * NEWEST
        first: dict[frozenset[str], int] = {}
        for trial in finished:
            first.setdefault(frozenset(trial.params), trial.number)
        assert [t.number for t in index.first_of_each_shape()] == sorted(first.values())


def test_the_good_ones_are_those_of_the_whole_study() -> None:
    """With one objective nothing that was good is forgotten."""
    draw = random.Random(3)
    count = modelled.NEWEST + 400
    made = [
        optuna.trial.create_trial(
            params={"x": 0.5},
            distributions={"x": optuna.distributions.FloatDistribution(0.0, 1.0)},
            value=draw.random(),
        )
        for _ in range(count)
    ]
    study = optuna.create_study(storage=InMemoryStorage())
    study.add_trials(made)
    index = ModelledTrials(study._storage, study._study_id)
    index.update()
    capped = index.all()
    gamma = tpe.default_gamma(count)
    assert len(capped) == modelled.NEWEST + gamma
    whole, of_capped = (
        [t.number for t in tpe._split_trials(study, list(trials), gamma)[0]]
        for trials in (study.trials, capped)
    )
    assert whole == of_capped
    assert len(whole) == gamma == tpe.default_gamma(modelled.NEWEST)


def test_what_asks_keep_does_not_keep_their_storage() -> None:
    """A replay of many searches in one process would hold all of them."""
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage)
    assert CachedView(storage).count_finished(study._study_id) == 0
    seen = weakref.ref(storage)
    del storage, study
    gc.collect()
    assert seen() is None
