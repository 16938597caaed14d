"""--import-study: trials of another study teach the sampler, and count for nothing else."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from optuna import Trial
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.search.errors import StudyChanged
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.space.distributions import Distributions, draw_distributions
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.store.trials import IMPORTED, IMPORTED_PARAMS, best_record, read_records
from meanflow_tune.search.study.generations import Target, count_trials, make_generation
from meanflow_tune.search.study.import_trials import find_origin, import_study
from meanflow_tune.search.study.relocate import open_study
from tests.support import studies
from tests.support.manifests import manifest
from tests.support.studies import BASELINES, NAME, OBJECTIVE, allow, make_ledger, run_all

OBJECTIVES = Objectives.of(OBJECTIVE)


def distributions(suggest: Any = studies.suggest) -> Distributions:
    return draw_distributions(suggest, {}, draws=64)


def trials(storage: BaseStorage, name: str = NAME) -> list[FrozenTrial]:
    return storage.get_all_trials(storage.get_study_id_from_name(name))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of 12 trials with every kind of end; its folder has its name."""
    folder = tmp_path_factory.mktemp("storage") / NAME
    folder.mkdir()
    run_all(make_ledger(folder, total=12))
    assert {r.status for r in records(folder)} >= {"completed", "pruned", "diverged"}
    return folder


def records(folder: Path) -> list[Any]:
    return read_records(open_storage(folder / JOURNAL_NAME), NAME, folder)


@pytest.fixture
def storage(tmp_path: Path) -> BaseStorage:
    return open_storage(tmp_path / JOURNAL_NAME, allow)


def test_conditional_trials_are_imported_with_state_value_and_rungs(
    origin: Path, storage: BaseStorage
) -> None:
    """Optuna's OptunaSearch refuses them: add_evaluated_point takes no conditional space."""
    assert import_study(storage, "new", origin, distributions(), OBJECTIVES) == 12
    source = trials(open_storage(origin / JOURNAL_NAME))
    made = trials(storage, "new")
    assert any("rate" in trial.params for trial in made)
    assert any("rate" not in trial.params for trial in made)
    for one, other in zip(source, made, strict=True):
        assert (one.state, one.params, one.values) == (other.state, other.params, other.values)
        assert one.intermediate_values == other.intermediate_values
        assert one.constraints.items() <= other.constraints.items()
        assert other.user_attrs[IMPORTED] == {"study": NAME, "number": one.number}
    assert len({tuple(trial.constraints) for trial in made}) == 1  # what GP insists on
    assert read_records(storage, "new", Path()) == []
    assert count_trials(storage, "new").all == 0


@pytest.mark.slow
def test_an_origin_in_a_database_is_found_by_its_manifest(
    origin: Path, storage: BaseStorage, tmp_path: Path
) -> None:
    moved, url = tmp_path / "moved" / NAME, f"sqlite:///{tmp_path / 'studies.db'}"
    shutil.copytree(origin, moved)
    open_study(moved, NAME, url, partial(open_storage, fence=allow))
    manifest(study=NAME, study_storage=url).write(moved)
    said: list[str] = []
    here = manifest(data_fingerprint="other")
    assert import_study(storage, "new", moved, distributions(), OBJECTIVES, here, said.append) == 12
    assert said[0] == "note: in toy, the fingerprint of the data was f00 and is other here"


def test_what_does_not_fit_is_left_out(origin: Path, storage: BaseStorage) -> None:
    def suggest(trial: Trial) -> dict[str, Any]:
        return {
            "x": trial.suggest_float("x", -1.0, 1.0),
            "kind": trial.suggest_categorical("kind", ["plain", "other"]),
            "z": trial.suggest_int("z", 0, 4),
        }

    said: list[str] = []
    import_study(storage, "new", origin, distributions(suggest), OBJECTIVES, say=said.append)
    for trial, record in zip(trials(storage, "new"), records(origin), strict=True):
        assert trial.params["x"] == record.params["x"]
        assert ("kind" in trial.params) == (record.params["kind"] == "plain")
        together = trial.params | trial.user_attrs[IMPORTED_PARAMS]
        assert together == record.params
    assert said == [
        "imported 12 of 12 finished trials of toy; parameters that do not fit: kind, rate, z"
    ]


def test_several_objectives_are_computed_from_the_reports(
    origin: Path, storage: BaseStorage
) -> None:
    import_study(storage, "new", origin, distributions(), Objectives.parse("cost,gap@1"))
    for trial, record in zip(trials(storage, "new"), records(origin), strict=True):
        last = record.reports[-1]
        if trial.state == TrialState.COMPLETE:
            assert trial.values == [last.cost["cpu_seconds"], last.metrics["gap@1"]]
        else:
            assert trial.values is None


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("after", [0, 1, 5, 13])
def test_each_trial_is_imported_once_over_a_kill(origin: Path, tmp_path: Path, after: int) -> None:
    left = after

    def fence() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    killed = open_storage(tmp_path / JOURNAL_NAME, fence)
    with pytest.raises(Killed):
        import_study(killed, "new", origin, distributions(), OBJECTIVES)
    storage = open_storage(tmp_path / JOURNAL_NAME, allow)
    assert import_study(storage, "new", origin, distributions(), OBJECTIVES) == 12 - max(
        0, after - 1
    )
    assert import_study(storage, "new", origin, distributions(), OBJECTIVES) == 0
    numbers = [t.user_attrs[IMPORTED]["number"] for t in trials(storage, "new")]
    assert numbers == list(range(12))


def test_an_import_after_the_first_trial_is_refused(
    origin: Path, storage: BaseStorage, tmp_path: Path
) -> None:
    ledger = make_ledger(tmp_path, storage)
    assert ledger.next() is not None
    before = trials(storage)
    with pytest.raises(StudyChanged, match=r"already has trials.*before the first trial"):
        import_study(storage, NAME, origin, distributions(), OBJECTIVES)
    assert len(trials(storage)) == len(before)


def test_a_second_origin_is_refused(origin: Path, storage: BaseStorage, tmp_path: Path) -> None:
    import_study(storage, "new", origin, distributions(), OBJECTIVES)
    with pytest.raises(StudyChanged, match="already imported toy"):
        import_study(storage, "new", tmp_path / "other", distributions(), OBJECTIVES)


def test_metrics_that_were_not_measured_and_spaces_without_a_match_are_refused(
    origin: Path, storage: BaseStorage
) -> None:
    with pytest.raises(StudyChanged, match="trial 0: metric 'fid@1' of the objective"):
        import_study(storage, "new", origin, distributions(), Objectives.parse("fid@1"))

    def suggest(trial: Trial) -> dict[str, Any]:
        return {"other": trial.suggest_float("other", 0.0, 1.0)}

    with pytest.raises(StudyChanged, match="none of its 12 finished trials has a parameter"):
        import_study(storage, "new", origin, distributions(suggest), OBJECTIVES)
    assert storage.get_all_studies() == []


def test_where_an_origin_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert find_origin("a", tmp_path) == tmp_path / "a"
    assert find_origin(str(tmp_path / "a"), Path("elsewhere")) == tmp_path / "a"
    with pytest.raises(StudyChanged, match="--import-study b: there is no study folder"):
        find_origin("b", tmp_path)


def test_own_trials_come_after_and_are_modelled_with_the_imported_ones(
    origin: Path, storage: BaseStorage, tmp_path: Path
) -> None:
    import_study(storage, NAME, origin, distributions(), OBJECTIVES)
    ledger = make_ledger(tmp_path, storage, total=4)
    run_all(ledger)
    own = ledger.records()
    assert [record.number for record in own] == [12, 13, 14, 15]
    assert [record.baseline for record in own] == [*BASELINES, None, None]
    attributes = trials(storage)[14].system_attrs
    assert any(key.startswith("tpe:relative_params") for key in attributes)  # no start-up draws
    best = best_record(ledger.records())
    assert best is not None
    assert best.number >= 12


def test_a_generation_takes_imported_trials_along(origin: Path, storage: BaseStorage) -> None:
    import_study(storage, "new", origin, distributions(), OBJECTIVES)

    def suggest(trial: Trial) -> dict[str, Any]:
        kind = trial.suggest_categorical("kind", ["plain", "bent", "dead", "more"])
        return {"kind": kind, "x": trial.suggest_float("x", -1.0, 1.0)}

    pair = Objectives.parse("gap@1,cost")
    assert make_generation(storage, "new", Target(pair, distributions(suggest), suggest)) == 2
    for trial, record in zip(trials(storage, "new@2"), records(origin), strict=True):
        assert trial.params == {name: record.params[name] for name in ("kind", "x")}
        last = record.reports[-1]
        complete = [last.metrics["gap@1"], last.cost["cpu_seconds"]]
        assert trial.values == (complete if record.status == "completed" else None)
    assert import_study(storage, "new", origin, distributions(suggest), pair) == 0
    assert count_trials(storage, "new").all == 0
