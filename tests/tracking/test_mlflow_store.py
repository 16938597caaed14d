"""A storage folder that was moved: MLflow's places and the outbox's paths follow."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.mlflow_store import (
    adopt_artifacts,
    current_path,
    default_artifacts,
    default_uri,
)


def database(path: Path, rows: dict[str, str]) -> Path:
    """The part of MLflow's tables that holds places, one run and model an experiment."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE experiments (name, artifact_location)")
        connection.execute("CREATE TABLE runs (artifact_uri)")
        connection.execute("CREATE TABLE logged_models (artifact_location)")
        for name, place in rows.items():
            connection.execute("INSERT INTO experiments VALUES (?, ?)", (name, place))
            connection.execute("INSERT INTO runs VALUES (?)", (f"{place}/1/artifacts",))
            connection.execute("INSERT INTO logged_models VALUES (?)", (f"{place}/models/2",))
    return path


def places(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return [
            row[0]
            for column, table in (
                ("artifact_location", "experiments"),
                ("artifact_uri", "runs"),
                ("artifact_location", "logged_models"),
            )
            for row in connection.execute(f"SELECT {column} FROM {table} ORDER BY 1")
        ]


def test_all_places_follow_and_foreign_ones_stay(tmp_path: Path) -> None:
    old = "file:///old/runs/artifacts"
    foreign = "file:///old/runs/artifacts2/elsewhere"
    path = database(
        tmp_path / "mlflow.db",
        {"toy": f"{old}/toy", "a b/confirm": f"{old}/a%20b/confirm", "elsewhere": foreign},
    )
    artifacts = tmp_path / "runs" / "artifacts"
    assert adopt_artifacts(path, artifacts) == [old]
    new = artifacts.as_uri()
    expected = [f"{new}/a%20b/confirm", f"{new}/toy", foreign]
    found = places(path)
    assert sorted(found[:3]) == sorted(expected)
    assert sorted(found[3:6]) == sorted(f"{place}/1/artifacts" for place in expected)
    assert sorted(found[6:]) == sorted(f"{place}/models/2" for place in expected)
    assert adopt_artifacts(path, artifacts) == []
    assert places(path) == found


def test_a_database_that_is_not_there_or_not_mlflows_is_left_alone(tmp_path: Path) -> None:
    assert adopt_artifacts(tmp_path / "none.db", tmp_path) == []
    assert not (tmp_path / "none.db").exists()
    sqlite3.connect(tmp_path / "other.db").close()
    assert adopt_artifacts(tmp_path / "other.db", tmp_path) == []


def test_a_file_of_an_event_is_found_where_it_is_now(tmp_path: Path) -> None:
    inside = tmp_path / "runs" / "toy" / "trials" / "00003" / "a.png"
    inside.parent.mkdir(parents=True)
    inside.write_text("")
    storage = tmp_path / "runs"
    assert current_path("/old/toy/trials/00003/a.png", "toy", storage) == inside
    assert current_path(str(inside), "toy", storage) == inside
    assert current_path("/old/toy/trials/00003/b.png", "toy", storage) == Path(
        "/old/toy/trials/00003/b.png"
    )


@pytest.mark.slow
def test_mlflow_itself_writes_to_the_new_place(tmp_path: Path) -> None:
    """Against the real tables, so that a column of another name would be noticed."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    first = MlflowSink(old)
    first._uids["toy"] = "1"
    experiment = first._experiment("toy")
    run = first._client().create_run(experiment).info.run_id
    model = first._client().create_logged_model(experiment, name="student", source_run_id=run)
    shutil.move(old, new)
    second = MlflowSink(new)._client()
    (tmp_path / "file.txt").write_text("x")
    second.log_artifact(run, str(tmp_path / "file.txt"))
    root = default_artifacts(new)
    assert list(root.rglob("file.txt"))
    assert not old.exists()
    location = second.get_logged_model(model.model_id).artifact_location
    assert location.startswith((str(root), root.as_uri()))
    assert default_uri(new).endswith("/new/mlflow.db")
