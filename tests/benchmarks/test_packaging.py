"""Benchmarks lie beside the package: they are in no wheel, no logged model and no runtime environment."""

import ast
import os
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.overhead.sides_run import environment
from meanflow_tune.cluster.connection import session
from meanflow_tune.cluster.errors import ClusterUnreachable
from meanflow_tune.tracking.models.logged_model import save_student
from tests.support.paths import ROOT
from tests.support.servers.heads import head
from tests.support.stories import make_student

INSTALLED = ("meanflow_tune", "search_spaces")


def test_the_wheel_has_the_package_and_the_search_spaces_only() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": list(INSTALLED)}


@pytest.mark.parametrize("package", INSTALLED)
def test_nothing_installed_imports_benchmarks(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert "benchmarks" not in path.relative_to(ROOT).parts
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert "benchmarks" not in {name.partition(".")[0] for name in names}, path


def test_a_logged_model_carries_the_package_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pyfunc

    carried: list[set[str]] = []

    def save(path: str, *, code_paths: list[str], **_: Any) -> None:
        _, packed = code_paths
        with zipfile.ZipFile(packed) as code:
            carried.append(set(code.namelist()))

    monkeypatch.setattr(mlflow.pyfunc, "save_model", save)
    save_student(make_student(tmp_path), tmp_path / "target", None, None)
    package = ROOT / "meanflow_tune"
    assert carried == [{str(file.relative_to(ROOT)) for file in package.rglob("*.py")}]


def test_hosts_of_a_cluster_are_sent_the_package_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    sent: list[list[str]] = []

    def init(*, runtime_env: dict[str, Any], **_: Any) -> None:
        sent.append(runtime_env["py_modules"])
        raise RuntimeError("enough")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(session, "check_node_here", lambda host, port: None)
    with head(b"one") as port, pytest.raises(ClusterUnreachable):
        session.join(f"127.0.0.1:{port}")
    assert sent == [[str(ROOT / "meanflow_tune")]]


def test_processes_of_a_side_find_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers inherit the path, so that functions of `benchmarks` are importable there."""
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("RAY_ADDRESS", "some:1")
    found = environment()
    assert found["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/elsewhere"]
    assert "RAY_ADDRESS" not in found
