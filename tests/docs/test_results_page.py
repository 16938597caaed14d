"""docs/results.md names every column with its type and unit, and docs/results.ipynb runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from meanflow_tune.results.metrics_table import COLUMNS
from meanflow_tune.results.parquet import FIXED
from tests.support.paths import ROOT
from tests.support.results.tables import write_tables

PAGE = (ROOT / "docs" / "results.md").read_text()
NOTEBOOK = ROOT / "docs" / "results.ipynb"
TYPES = {"large_string": "string", "string": "string"}

# What a reader of the files relies on; a change here is a change for users.
RESULTS = """study string, kind string, number int64, status string, baseline string, attempt int64,
enqueued bool, protected bool, bracket int64, repeat int64, terms int64, rung int64, images int64,
is_last bool, value double, decision string, reason string, time double, started double, ended double,
folder string"""
METRICS = """study string, kind string, trial int64, candidate int64, variant string, baseline string,
status string, seed int64, latent_seed int64, evaluation string, repeat int64, images int64, is_last bool,
nfe int64, metric string, value double, lower double, upper double, runs int64"""
UNITS = {
    "images": "images",
    "nfe": "function evaluations",
    "runs": "runs",
    "time": "unix seconds",
    "started": "unix seconds",
    "ended": "unix seconds",
    "cost.cpu_seconds": "CPU seconds",
    "cost.gpu_seconds": "GPU seconds",
    "cost.wall_seconds": "seconds",
    "cost.step_ms": "milliseconds",
    "cost.steps": "steps",
    "objective.NAME": "that of the objective",
    "NAME@NFE": "that of the metric",
    "param.NAME": "that of the setting",
    "config.PATH": "that of the setting",
}
VALUES = {"results.parquet": "that of the objective", "metrics.parquet": "that of the metric"}


def golden(text: str) -> dict[str, str]:
    return dict(entry.split() for entry in text.replace("\n", " ").split(","))


def documented(section: str) -> list[dict[str, tuple[str, str]]]:
    """name -> (type, unit), of each table of columns in a section of the page."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    tables: list[dict[str, tuple[str, str]]] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells == ["column", "type", "unit", "meaning"]:
            tables.append({})
        elif tables and re.fullmatch(r"`\S+`", cells[0] if cells else ""):
            assert len(cells) == 4, line
            assert cells[3], f"no meaning: {line}"
            tables[-1][cells[0].strip("`")] = (cells[1], cells[2])
    return tables


def written(path: Path) -> dict[str, str]:
    return {f.name: TYPES.get(str(f.type), str(f.type)) for f in pq.read_schema(path)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.name: path for path in write_tables(tmp_path_factory.mktemp("study"))}


@pytest.mark.parametrize(
    ("name", "text", "fixed"),
    [("results.parquet", RESULTS, FIXED), ("metrics.parquet", METRICS, COLUMNS)],
)
def test_fixed_columns_are_the_golden_ones(
    files: dict[str, Path], name: str, text: str, fixed: dict[str, str]
) -> None:
    expected = golden(text)
    there = written(files[name])
    table = documented(name)[0]
    assert list(fixed) == list(expected) == list(there)[: len(expected)] == list(table)
    assert {column: there[column] for column in expected} == expected
    assert {column: kind for column, (kind, _) in table.items()} == expected
    units = {column: unit for column, (_, unit) in table.items()}
    bounds = dict.fromkeys(("value", "lower", "upper"), VALUES[name])
    assert units == {c: bounds.get(c, UNITS.get(c, "")) for c in expected}


def test_metrics_have_no_other_columns(files: dict[str, Path]) -> None:
    assert len(documented("metrics.parquet")) == 1
    assert list(written(files["metrics.parquet"])) == list(golden(METRICS))


def test_every_further_column_of_results_fits_one_line_of_the_page(files: dict[str, Path]) -> None:
    further = documented("results.parquet")[1]
    assert {name: unit for name, (_, unit) in further.items()} == {
        name: UNITS.get(name, "") for name in further
    }
    assert {name for name, unit in UNITS.items() if "." in name or "@" in name} <= set(further)
    used = set()
    for column, kind in list(written(files["results.parquet"]).items())[len(FIXED) :]:
        fits = [n for n in further if re.fullmatch(_pattern(n), column)]
        assert len(fits) == 1, f"{column}: {fits}"
        used.add(fits[0])
        told = further[fits[0]][0]
        allowed = {"int64", "double", "bool", "string"} if told == "setting" else {told}
        assert kind in allowed, column
    assert set(further) - used == {"objective.NAME", "cost.gpu_seconds"}, "of other searches"


def _pattern(name: str) -> str:
    escaped = re.escape(name)
    for word, pattern in (("NAME", r"[\\w/]+"), ("PATH", r"[\\w.]+"), ("NFE", r"\\d+")):
        escaped = re.sub(rf"\b{word}\b", pattern, escaped)
    return escaped


def test_every_kind_is_explained() -> None:
    text = PAGE.split("\n## Kinds of runs\n")[1].split("\n## ")[0]
    kinds = re.findall(r"^\| `(\w+)` \| ", text, flags=re.MULTILINE)[1:]
    assert kinds == [
        "trial",
        "tuning",
        "confirmation",
        "confirmed",
        "teacher",
        "teacher_ode",
        "data",
        "noise",
    ]


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) == 3
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert len(cell["source"]) <= 10, "about five lines"


def test_the_notebook_runs_on_a_study(tmp_path: Path) -> None:
    """Its cells in order, as plain Python in docs/, and what they have drawn."""
    write_tables(tmp_path / "runs" / "second_order")
    (tmp_path / "docs").mkdir()
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    load, curves, front = ("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    after = """
def told():
    return sorted(text.get_text() for text in plt.gca().get_legend().get_texts())
"""
    first = """
assert told() == ["teacher, Euler steps", "trial 0", "trial 1", "trial 3"], told()
assert plt.gca().get_xlabel() == "NFE"
drawn = [line.get_ydata().tolist() for line in plt.gca().lines if line.get_linestyle() == "--"]
assert drawn == [[0.9, 0.5]], drawn
plt.savefig("curves.png")
plt.close()
"""
    second = """
assert told() == ["Pareto front", "completed trials"], told()
(line,) = plt.gca().lines
# A gap half as large costs twice as much here, so that all completed trials are on the front.
assert len(line.get_xdata()) == len(done) == 4
assert list(line.get_ydata()) == sorted(line.get_ydata(), reverse=True)
plt.savefig("front.png")
"""
    script = "\n".join([load, after, curves, first, front, second])
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", script],
        cwd=tmp_path / "docs",
        env=os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"curves.png", "front.png"}
