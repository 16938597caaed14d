import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.results.parquet import FIXED, results_table, write_best, write_results
from tests.support.records import build_record


def report(images: int, gap: float) -> Report:
    metrics = {"teacher_gap@1": gap, "loss/backward": 1.0}
    return Report(images, metrics, {"cpu_seconds": 2.0 * images}, time=100.0 + images)


def record(number: int, *reports: Report, **changes: Any) -> TrialRecord:
    fields: dict[str, Any] = {
        "study": "toy",
        "params": {"share": 0.5, "kind": "uniform"},
        "config": {
            "seed": 2**60 + number,
            "model": {"kind": "mlp", "dropout": None},
            "nfe": [1, 2],
        },
        "value": reports[-1].metrics["teacher_gap@1"] if reports else None,
        "folder": f"trials/{number:05d}",
        "started": 1.0,
    }
    status = changes.pop("status", "completed")
    return build_record(number, status, *reports, **(fields | changes))


def read(path: Path, records: list[TrialRecord]) -> pd.DataFrame:
    write_results(path, records, ["gap"], lambda report: (10 * report.metrics["teacher_gap@1"],))
    return pd.read_parquet(path)


def test_one_row_a_trial_and_rung(tmp_path: Path) -> None:
    first = record(0, report(10, 0.5), report(20, 0.25), baseline="backward")
    second = record(1, report(10, 0.4), status="pruned", reason="not among the best")
    third = record(2, status="failed", reason="ValueError")
    table = read(tmp_path / "results.parquet", [first, second, third])
    assert list(table.columns)[: len(FIXED)] == list(FIXED)
    assert table["number"].tolist() == [0, 0, 1, 2]
    assert table["rung"].tolist() == [1, 2, 1, 0]
    assert table["images"].tolist() == [10, 20, 10, 0]
    assert table["is_last"].tolist() == [False, True, True, True]
    np.testing.assert_array_equal(table["value"], [5.0, 0.25, 0.4, np.nan])
    np.testing.assert_array_equal(table["teacher_gap@1"], [0.5, 0.25, 0.4, np.nan])
    np.testing.assert_array_equal(table["cost.cpu_seconds"], [20.0, 40.0, 20.0, np.nan])
    assert table["status"].tolist() == ["completed", "completed", "pruned", "failed"]
    assert table["baseline"].isna().tolist() == [False, False, True, True]
    assert table["param.kind"].tolist() == ["uniform"] * 4
    assert table["config.model.kind"].tolist() == ["mlp"] * 4
    assert table["config.nfe"].tolist() == ["[1, 2]"] * 4
    assert table["config.seed"].tolist() == [2**60, 2**60, 2**60 + 1, 2**60 + 2]


def test_repeats_are_rows_of_their_own_after_the_rungs() -> None:
    again = tuple(replace(report(20, 0.3 + 0.1 * k), repeat=k) for k in (1, 2))
    whole = record(
        0, report(10, 0.5), report(20, 0.25), repeats=again, decisions=("place 1 of 4", "the last")
    )
    table = results_table([whole], ["gap"], lambda one: (one.metrics["teacher_gap@1"],))
    assert table["repeat"].tolist() == [0, 0, 1, 2]
    assert table["rung"].tolist() == [1, 2, 2, 2]
    assert table["is_last"].tolist() == [False, True, False, False], "the told value stays its own"
    np.testing.assert_allclose(table["value"], [0.5, 0.25, 0.4, 0.5])
    assert table["decision"].tolist()[:2] == ["place 1 of 4", "the last"]
    assert not table.duplicated(["number", "repeat", "rung"]).any()


def test_several_objectives_have_a_column_each_and_no_value() -> None:
    names = ["teacher_gap@1", "cost"]
    several = record(0, report(10, 0.5), report(20, 0.25), value=None, values=(0.25, 40.0))
    table = results_table(
        [several], names, lambda one: (one.metrics["teacher_gap@1"], one.cost["cpu_seconds"])
    )
    assert table["value"].isna().all()
    assert table["objective.teacher_gap@1"].tolist() == [0.5, 0.25]
    assert table["objective.cost"].tolist() == [20.0, 40.0]


def test_the_columns_do_not_depend_on_the_order_or_number_of_trials(tmp_path: Path) -> None:
    one = record(0, report(10, 0.5), config={"flag": True, "steps": 3, "rate": 1.0, "mixed": 1})
    two = record(1, report(10, 0.5), config={"steps": None, "rate": 1, "mixed": "off"})
    three = record(2, config={"other": {"kind": "x"}})
    forth = read(tmp_path / "a.parquet", [one, two, three])
    back = read(tmp_path / "b.parquet", [three, two, one])
    assert forth.dtypes.to_dict() == back.dtypes.to_dict()
    kinds = {name: str(forth[f"config.{name}"].dtype) for name in ("flag", "steps", "rate")}
    assert kinds == {"flag": "boolean", "steps": "Int64", "rate": "float64"}
    assert forth["config.mixed"].tolist()[:2] == ["1", "off"]
    assert forth["config.steps"].isna().tolist() == [False, True, True]


@pytest.mark.parametrize("reports", [(), (report(10, 0.5),)])
def test_fixed_columns_have_the_same_types_in_every_file(
    tmp_path: Path, reports: tuple[Report, ...]
) -> None:
    table = read(tmp_path / "a.parquet", [record(0, *reports)])
    empty = read(tmp_path / "b.parquet", [])
    assert len(empty) == 0
    assert list(empty.columns) == list(FIXED)
    for name, kind in FIXED.items():
        assert str(table[name].dtype) == str(empty[name].dtype) == kind, name


def test_without_an_objective_only_the_last_rung_has_a_value() -> None:
    table = results_table([record(0, report(10, 0.5), report(20, 0.25))])
    np.testing.assert_array_equal(table["value"], [np.nan, 0.25])


def test_best_is_the_configuration_itself_and_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    path.write_text("an older one")
    write_best(path, record(7))
    assert json.loads(path.read_text()) == record(7).config
    read(tmp_path / "results.parquet", [record(7)])
    read(tmp_path / "results.parquet", [record(7), record(8)])
    assert {file.name for file in tmp_path.iterdir()} == {"best.json", "results.parquet"}
