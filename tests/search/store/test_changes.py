"""What changed in a study is found without reading the rest, whoever changed it."""

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from meanflow_tune.search.store.changes import StudyTrials
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from tests.support.studies import allow


def some_storage(kind: str, folder: Path) -> Any:
    if kind == "memory":
        return InMemoryStorage()
    return open_storage(
        folder / JOURNAL_NAME if kind == "journal" else f"sqlite:///{folder}/x.db", allow
    )


@pytest.mark.parametrize("kind", ["journal", "memory", "database"])
def test_the_trials_that_changed_and_no_others(kind: str, tmp_path: Path) -> None:
    storage, draw = some_storage(kind, tmp_path), random.Random(0)
    optuna.create_study(storage=storage, study_name="other").ask()  # ids are not numbers
    study = optuna.create_study(storage=storage, study_name="s")
    followed = StudyTrials(storage, study._study_id)
    assert followed.update() == []
    for _ in range(10 if kind == "database" else 30):
        touched = set()
        for _ in range(draw.randrange(3)):
            open_trials = [t for t in study.trials if not t.state.is_finished()]
            if len(open_trials) < 3:
                touched.add(study.ask().number)
                continue
            one = draw.choice(open_trials)
            touched.add(one.number)
            if draw.random() < 0.5:
                study.tell(one.number, state=TrialState.FAIL)
            else:
                storage.set_trial_user_attr(one._trial_id, "a", draw.random())
        found = {trial.number for trial in followed.update()}
        # Optuna reads the unfinished trials of a database again each time.
        assert touched <= found if kind == "database" else touched == found
        assert followed.trials == study.trials
    assert StudyTrials(storage, study._study_id).update() == study.trials


def test_a_line_of_another_program_is_a_change_too(tmp_path: Path) -> None:
    """Such as of the Optuna dashboard, which writes into the same journal."""
    ours = open_storage(tmp_path / JOURNAL_NAME, allow)
    study = optuna.create_study(storage=ours, study_name="s")
    trials = [study.ask() for _ in range(3)]
    followed = StudyTrials(ours, study._study_id)
    followed.update()
    theirs = optuna.load_study(study_name="s", storage=open_storage(tmp_path / JOURNAL_NAME, allow))
    theirs._storage.set_trial_user_attr(trials[1]._trial_id, "note", "look")
    theirs.enqueue_trial({})
    assert [trial.number for trial in followed.update()] == [1, 3]
    assert followed.trials[1].user_attrs == {"note": "look"}
