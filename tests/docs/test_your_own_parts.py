"""docs/your-own-parts.md works as written: its files and lines, in a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.docs.pages import Block, blocks
from tests.support.paths import ROOT
from tests.support.processes.commands import environment

PAGE = "docs/your-own-parts.md"
HEAD = re.compile(r"# (\S+\.py)(?:, above: (.+))?\n")
SPACE = "moons_space.py"
LONGEST = 20
MEMBERS = ("Moons", "Shallow", "Balanced")


def parts() -> list[tuple[str, str | None, str]]:
    """(file, the line above which it goes or None for a new file, code) of each block."""
    found = []
    for block in _python():
        head = HEAD.match(block.text)
        assert head, block.text
        found.append((head[1], head[2], block.text[head.end() :]))
    return found


def _python() -> list[Block]:
    return [block for block in blocks("python") if block.page == PAGE]


def follow(folder: Path) -> None:
    """Do what the page says in a copy of the package."""
    for file, above, code in parts():
        path = folder / file
        if above is None:
            assert not path.exists(), f"{file} exists already"
            path.write_text(code)
            continue
        text = path.read_text()
        places = re.findall(rf"^( *){re.escape(above)}", text, flags=re.MULTILINE)
        assert places, f"{file}: no line begins with {above!r}"
        line = f"{places[0]}{above}"
        added = "".join(f"{places[0]}{each}\n" for each in code.splitlines())
        path.write_text(text.replace(f"\n{line}", f"\n{added}{line}", 1))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    skipped = shutil.ignore_patterns("__pycache__", "test_one_file_one_line.py")
    for name in ("meanflow_tune", "search_spaces", "scripts", "tests/contracts", "tests/support"):
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", folder)
    follow(folder)
    return folder


def run(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=copy,
        env=environment(PYTHONPATH=os.fspath(copy)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def test_a_member_takes_few_lines() -> None:
    lengths = {
        file: len([line for line in code.splitlines() if line.strip()])
        for file, above, code in parts()
        if above is None and file != SPACE
    }
    assert len(lengths) == len(MEMBERS)
    assert all(length < LONGEST for length in lengths.values()), lengths


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "member"), list(zip(("data", "models", "losses"), MEMBERS, strict=True))
)
def test_its_contract_suite_tests_it(family: str, member: str, copy: Path) -> None:
    suite, results = f"tests/contracts/test_{family}.py", f"{family}.xml"
    run(copy, "-m", "pytest", suite, "-k", member, f"--junitxml={results}")
    cases = list(ElementTree.parse(copy / results).iter("testcase"))
    assert all(member in case.attrib["name"] and len(case) == 0 for case in cases)
    assert len({case.attrib["name"].partition("[")[0] for case in cases}) >= 4


@pytest.mark.slow
def test_the_space_is_planned(copy: Path) -> None:
    printed = run(copy, "scripts/tune.py", "--space", SPACE, "--dry-run").stdout
    assert "moons_space" in printed
    assert "Nothing was started." in printed


@pytest.mark.slow
def test_its_students_train(copy: Path) -> None:
    """Both baselines and the middle between them, with a small teacher."""
    write = """
import json
from meanflow_tune.search.space.draws import draw_fixed
from meanflow_tune.search.space.load import load_space
space = load_space("moons_space.py")
for name, share in (("plain", 0.0), ("mixed", 0.5), ("alone", 1.0)):
    config = draw_fixed(space.suggest, {"share": share}).config.to_dict()
    json.dump(config, open(f"{name}.json", "w"))
"""
    run(copy, "-c", write)
    small = ("teacher.budget.images=2560", "budget.images=1280", "evaluation.samples=64")
    settings = [word for each in small for word in ("--set", each)]
    losses = {}
    for name in ("plain", "mixed", "alone"):
        run(copy, "scripts/train.py", "--config", f"{name}.json", "--output", name, *settings)
        losses[name] = json.loads((copy / name / "metrics.json").read_text())
    assert len({json.dumps(each, sort_keys=True) for each in losses.values()}) == len(losses)
