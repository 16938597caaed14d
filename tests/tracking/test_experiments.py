"""The experiment of a study: by its tag, restored, made again, and never another study's."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.tracking.experiments import NAME_TAG, SEARCH_TAG, STUDY_TAG, find_experiment
from meanflow_tune.tracking.mlflow_store import adopt_artifacts, connect, ensure_database

pytestmark = pytest.mark.slow  # MLflow creates its database
Find = Callable[..., str]


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    ensure_database(f"sqlite:///{path}")
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_database, tmp_path / "mlflow.db"))


@pytest.fixture
def api(database: Path) -> Any:
    return connect(f"sqlite:///{database}")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def find(api: Any, tmp_path: Path, said: list[str]) -> Find:
    def call(study: str = "toy", uid: str = "a" * 32) -> str:
        place = lambda name: (tmp_path / "artifacts" / name).as_uri()  # noqa: E731
        return find_experiment(api, study, uid, place, said.append)

    return call


def test_it_is_made_once_with_its_tags(find: Find, api: Any, said: list[str]) -> None:
    number = find()
    assert find() == number
    made = api.get_experiment(number)
    assert made.name == "toy"
    assert made.tags[STUDY_TAG] == "a" * 32
    assert made.tags["mlflow.experimentKind"] == "custom_model_development"
    assert made.artifact_location.endswith("/artifacts/toy")
    assert said == []


def test_it_is_found_under_another_name_and_restored(find: Find, api: Any, said: list[str]) -> None:
    number = find()
    api.rename_experiment(number, "best of all")
    assert find() == number
    api.delete_experiment(number)
    assert find() == number
    assert api.get_experiment(number).lifecycle_stage == "active"
    assert said == ["MLflow's experiment best of all was deleted; it is restored"]


def test_a_purged_one_is_made_again(find: Find, api: Any, database: Path) -> None:
    number = find()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM experiment_tags WHERE experiment_id = ?", (number,))
        connection.execute("DELETE FROM experiments WHERE experiment_id = ?", (number,))
    again = find()
    assert api.get_experiment(again).tags[STUDY_TAG] == "a" * 32


def test_two_studies_of_one_name_have_one_each(find: Find, api: Any, said: list[str]) -> None:
    first, second = find(), find(uid="b" * 32)
    assert api.get_experiment(second).name == "toy-bbbbbbbb"
    (line,) = said
    assert "in the experiment toy-bbbbbbbb" in line
    assert (find(), find(uid="b" * 32)) == (first, second)
    assert len(said) == 1


def test_one_of_an_earlier_revision_is_known_by_its_runs(find: Find, api: Any) -> None:
    number = api.create_experiment("toy")
    api.create_run(number, tags={SEARCH_TAG: "a" * 32})
    assert find() == number
    assert api.get_experiment(number).tags[NAME_TAG] == "toy"
    other = api.create_experiment("other")
    api.create_run(other, tags={SEARCH_TAG: "c" * 32})
    assert find("other") != other


def test_one_that_somebody_prepared_is_used(find: Find, api: Any) -> None:
    number = api.create_experiment("toy", tags={"team": "ours"})
    api.create_run(number)  # of theirs, which is no search
    assert find() == number
    assert api.get_experiment(number).tags["team"] == "ours"
    assert find(uid="b" * 32) != number


def test_the_artifacts_of_a_renamed_one_follow_a_moved_storage(
    find: Find, api: Any, database: Path, tmp_path: Path
) -> None:
    number = find()
    api.rename_experiment(number, "best of all")
    new = tmp_path / "moved" / "artifacts"
    assert adopt_artifacts(database, new) == [(tmp_path / "artifacts").as_uri()]
    assert api.get_experiment(number).artifact_location == f"{new.as_uri()}/toy"
