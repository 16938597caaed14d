import sqlite3
from contextlib import closing
from pathlib import Path

from meanflow_tune.tracking.pages import links
from meanflow_tune.tracking.runs_view import VIEW_TAG, runs_page


def test_every_study_that_is_there_has_a_link(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    assert links(database, "http://h") == []
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "CREATE TABLE experiments (experiment_id, name, lifecycle_stage, last_update_time)"
        )
        connection.execute("CREATE TABLE experiment_tags (experiment_id, key, value)")
        rows = [(0, "Default", "active", 1), (1, "old", "active", 2), (2, "new", "active", 3)]
        rows.append((3, "gone", "deleted", 4))
        connection.executemany("INSERT INTO experiments VALUES (?, ?, ?, ?)", rows)
        tags = [(number, VIEW_TAG, "{}") for number in (1, 2, 3)]
        connection.executemany("INSERT INTO experiment_tags VALUES (?, ?, ?)", tags)
    expected = [f"{name}: {runs_page(str(n), 'http://h')}" for n, name in ((2, "new"), (1, "old"))]
    assert links(database, "http://h") == expected
