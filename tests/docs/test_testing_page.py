"""What docs/testing.md says of the choice of tests, and of what they need of the machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MARKED = """
import pytest

def test_quick():
    pass

@pytest.mark.slow
def test_slow():
    pass

@pytest.mark.cluster
@pytest.mark.parametrize("n", [1, 12])
def test_cluster(n):
    assert n == 1

@pytest.mark.cluster
def test_cluster_too():
    pass
"""
NEEDY = """
from tests.support import needs

def test_program():
    needs.needs("no-such-program", "to compile")

def test_root(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    needs.needs_root("to mount")

def test_both(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    needs.needs_root("to mount")
    needs.needs("python3", "to run")
"""
# One process runs them all, one after another, and prints the names of the tests that each ran.
RUN = """
import json, sys, pytest

class Names:
    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            found[-1].append(report.nodeid.removeprefix("tests/").replace("test_", ""))

found = []
for arguments in json.loads(sys.argv[1]):
    found.append([])
    pytest.main(arguments, plugins=[Names()])
print("\\n" + json.dumps(found))
"""
QUICK = ["marked.py::quick", "other/quick.py::quick"]
SLOW = ["marked.py::slow"]
CLUSTER = ["marked.py::cluster[1]", "marked.py::cluster[12]"]
ALL_MARKED = ["marked.py::quick", *SLOW, *CLUSTER, "marked.py::cluster_too"]
FILE = "tests/test_marked.py"
CASES: list[tuple[list[str], list[str]]] = [
    ([], QUICK),
    (["tests"], QUICK),
    ([FILE], ALL_MARKED),
    (["tests/other/../test_marked.py::test_slow"], SLOW),
    ([f"{FILE}::test_cluster"], CLUSTER),
    ([f"{FILE}::test_cluster[1]"], CLUSTER[:1]),
    (["-n1", f"{FILE}::test_cluster[1]"], CLUSTER[:1]),
    (["tests/other", f"{FILE}::test_slow"], [*QUICK[1:], *SLOW]),
    (["-k", "slow or quick"], QUICK),
    ([FILE, "-k", "slow"], SLOW),
    ([FILE, "-m", "not slow"], [test for test in ALL_MARKED if test not in SLOW]),
    (["-m", "slow"], SLOW),
    (["-m", ""], [*ALL_MARKED, *QUICK[1:]]),
    (["--lf"], CLUSTER[1:]),  # failed above
    (["-n1", "--lf"], CLUSTER[1:]),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this project's settings of pytest, and other tests."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "tests" / "other").mkdir(parents=True)
    (folder / "tests" / "support").mkdir()
    for name in ("pyproject.toml", "tests/conftest.py", "tests/support/needs.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / FILE).write_text(MARKED)
    (folder / "tests" / "other" / "test_quick.py").write_text("def test_quick():\n    pass\n")
    return folder


@pytest.fixture(scope="module")
def ran(project: Path) -> list[list[str]]:
    command = [sys.executable, "-c", RUN, json.dumps([arguments for arguments, _ in CASES])]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)
    found: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "index", range(len(CASES)), ids=[" ".join(arguments) or "nothing" for arguments, _ in CASES]
)
def test_a_named_test_runs_whatever_its_marks(index: int, ran: list[list[str]]) -> None:
    assert sorted(ran[index]) == sorted(CASES[index][1])


@pytest.mark.parametrize("ci", ["true", ""])
def test_what_a_machine_lacks_is_named_and_fails_in_ci(ci: str, project: Path) -> None:
    file = project / "needy" / "test_needy.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(NEEDY)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", str(file)],
        cwd=project,
        env=os.environ | {"CI": ci},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "needs the program 'no-such-program' to compile" in done.stdout
    assert "needs root to mount" in done.stdout
    assert ("2 failed, 1 passed" if ci else "1 passed, 2 skipped") in done.stdout
    assert done.returncode == (1 if ci else 0)
