"""Both files open in DuckDB and Polars, with the types and numbers that were written."""

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest

from meanflow_tune.results.metrics_table import COLUMNS
from meanflow_tune.results.parquet import FIXED
from tests.support.results.tables import write_tables

IN_DUCKDB = {
    "str": "VARCHAR",
    "int64": "BIGINT",
    "Int64": "BIGINT",
    "float64": "DOUBLE",
    "bool": "BOOLEAN",
}
IN_POLARS = {
    "str": pl.String,
    "int64": pl.Int64,
    "Int64": pl.Int64,
    "float64": pl.Float64,
    "bool": pl.Boolean,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tables(tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize("place", [0, 1], ids=["results", "metrics"])
def test_types_are_the_same_in_both(files: tuple[Path, Path], place: int) -> None:
    path, fixed = files[place], (FIXED, COLUMNS)[place]
    described = duckdb.sql(f"DESCRIBE SELECT * FROM '{path}'").fetchall()
    types = {name: kind for name, kind, *_ in described}
    assert {name: types[name] for name in fixed} == {n: IN_DUCKDB[k] for n, k in fixed.items()}
    schema = pl.read_parquet(path).schema
    assert {name: schema[name] for name in fixed} == {n: IN_POLARS[k] for n, k in fixed.items()}
    assert list(types) == list(schema) == list(pd.read_parquet(path).columns)


def test_the_leader_of_the_search_in_duckdb(files: tuple[Path, Path]) -> None:
    found = duckdb.sql(
        f"""SELECT number, "teacher_gap@1", "config.optimizer.learning_rate", "config.seed"
        FROM '{files[0]}' WHERE kind = 'trial' AND is_last AND status = 'completed' ORDER BY value"""
    ).fetchall()
    assert found[0] == (3, 0.2, 0.01, 2**60)
    assert len(found) == 4


def test_tables_are_joined_in_duckdb(files: tuple[Path, Path]) -> None:
    """A confirmed mean next to the learning rate of the trial that was confirmed."""
    results, metrics = files
    found = duckdb.sql(
        f"""SELECT m.candidate, m.value, m.lower, r."param.rate"
        FROM '{metrics}' m JOIN '{results}' r ON r.number = m.candidate
        WHERE m.kind = 'confirmed' AND m.metric = 'teacher_gap' AND m.nfe = 1
        AND r.kind = 'trial' AND r.is_last ORDER BY m.candidate"""
    ).fetchall()
    assert [(number, rate) for number, _, _, rate in found] == [(0, 0.01), (1, 0.01), (3, 0.01)]
    assert found[0][1:3] == (pytest.approx(0.55), 0.5)
    assert found[2][2] is None, "one seed gives no interval"


def test_the_example_of_the_page_in_polars(files: tuple[Path, Path]) -> None:
    metrics = pl.read_parquet(files[1])
    found = metrics.filter(kind="confirmed", metric="teacher_gap").select(
        "candidate", "nfe", "value", "lower", "upper"
    )
    assert found.shape == (6, 5)
    assert found.filter(candidate=3)["lower"].to_list() == [None, None]
    assert found.filter(candidate=0)["nfe"].to_list() == [1, 2]
