"""The first view of a study in MLflow, and the links to it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from meanflow_tune.tracking.pages import links
from meanflow_tune.tracking.runs_view import VIEW_TAG, runs_page, view_state

VIEW = {
    "sort": "objective",
    "ascending": True,
    "metrics": ["teacher_gap@1", "sliced_wasserstein@1"],
    "params": ["param/optimizer/learning_rate"],
    "images": ["samples_nfe_1"],
}


def test_the_view_has_few_columns_in_the_order_of_interest() -> None:
    state = json.loads(view_state(VIEW))
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`objective`", True)
    assert state["selectedColumns"] == [
        "metrics.`objective`",
        "tags.`verdict`",
        "tags.`state`",
        "tags.`images`",
        "tags.`kind`",
        "metrics.`teacher_gap/nfe_1`",
        "metrics.`sliced_wasserstein/nfe_1`",
        "metrics.`cost/wall_seconds`",
        "attributes.`Models`",
    ]
    kinds = [chart["type"] for chart in state["compareRunCharts"]]
    assert kinds == ["LINE", "IMAGE", *["LINE"] * 4, "SCATTER", "PARALLEL"]
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(kinds)


def test_a_space_without_shared_parameters_has_no_parallel_coordinates() -> None:
    state = json.loads(view_state(VIEW | {"params": [], "images": []}))
    assert {chart["type"] for chart in state["compareRunCharts"]} == {"LINE", "SCATTER"}


def test_the_link_opens_the_training_view() -> None:
    link = runs_page("7", "http://host:5000")
    assert link.startswith("http://host:5000/#/experiments/7/runs?workflowType=machine_learning&")
    assert link.endswith("viewStateShareKey=search")


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
