"""Code in the pages: all of it compiles, and a test runs that of each page as printed."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.support.docs.pages import Block, blocks
from tests.support.paths import ROOT
from tests.support.processes.commands import environment
from tests.support.results.tables import write_tables

# The test that runs the Python code of a page.
RUN_BY = {
    "README.md": "tests/sampling/test_student_sources.py::test_the_snippet_of_the_readme",
    "docs/derivatives.md": "tests/docs/test_derivatives_page.py::"
    "test_code_of_the_page_runs_in_order_with_the_copied_files_alone",
    "docs/results.md": "tests/docs/test_snippets.py::test_code_of_the_results_page_runs",
    "docs/your-own-parts.md": "tests/docs/test_your_own_parts.py::test_its_students_train",
}


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.page)
def test_python_compiles(block: Block) -> None:
    ast.parse(block.text)


def test_json_is_json() -> None:
    for block in blocks("json"):
        json.loads(block.text)


def test_every_page_with_code_has_a_test_that_runs_it() -> None:
    assert {block.page for block in blocks("python")} == set(RUN_BY)
    for node in RUN_BY.values():
        path, _, test = node.partition("::")
        assert f"def {test}(" in (ROOT / path).read_text(), node


@pytest.mark.slow
def test_code_of_the_results_page_runs(tmp_path: Path) -> None:
    """Its blocks in order, where its reader stands: above `runs/`."""
    write_tables(tmp_path / "runs" / "second_order")
    code = [block.text for block in blocks("python") if block.page == "docs/results.md"]
    assert code
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*code, "assert len(study.trials) and len(metrics)"])],
        cwd=tmp_path,
        env=environment(PYTHONPATH=os.fspath(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_sql_of_the_results_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tables(tmp_path / "runs" / "second_order")
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("sql")
    assert re.search(r"^SELECT ", block.text)
    assert duckdb.sql(block.text).fetchall()
