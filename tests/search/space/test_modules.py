"""The files of a space: helpers by every way of importing them, and what a study notices of them."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from meanflow_tune.search.errors import SpaceError, StudyChanged
from meanflow_tune.search.space.load import load_space
from meanflow_tune.search.store.manifest import check_terms, is_source_of, with_source
from tests.support.manifests import manifest

TOY = """
GOAL = "find x"
OBJECTIVE = "gap@1"
BASELINES = {"zero": {"x": 0.0}}
def suggest(trial):
    return {"x": trial.suggest_float("x", -1, 1), "found": FOUND}
"""


def write(folder: Path, **files: str) -> Path:
    """`a__b` -> folder/a/b.py; the space itself is `toy`."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return folder / "toy.py"


@pytest.mark.parametrize(
    ("line", "name", "place"),
    [
        ("from helper_of_toy import FOUND", "helper_of_toy.py", "helper_of_toy.py"),
        ("from .helper_of_toy import FOUND", "helper_of_toy.py", "_space_toy/helper_of_toy.py"),
        ("from below_toy.inner import FOUND", "below_toy/inner.py", "below_toy/inner.py"),
        (
            "from .below_toy.inner import FOUND",
            "below_toy/inner.py",
            "_space_toy/below_toy/inner.py",
        ),
        (
            "import importlib\nFOUND = importlib.import_module('helper_of_toy').FOUND",
            "helper_of_toy.py",
            "helper_of_toy.py",
        ),
    ],
)
def test_a_helper_loads_and_is_known(tmp_path: Path, line: str, name: str, place: str) -> None:
    files = {"helper_of_toy": "FOUND = 1", "below_toy__inner": "FOUND = 1", "below_toy__unused": ""}
    space = load_space(write(tmp_path, toy=line + TOY, **files))
    assert list(space.files) == ["toy.py", name]
    assert dict(space.modules) == {
        "_space_toy/__init__.py": tmp_path / "toy.py",
        place: tmp_path / name,
    }
    (tmp_path / name).write_text("FOUND = 2\n")
    again = load_space(tmp_path / "toy.py")
    assert again.suggest(_fixed())["found"] == 2, "an earlier load is used"
    assert again.source_hash != space.source_hash
    assert again.files["toy.py"] == space.files["toy.py"]
    assert again.files[name] != space.files[name]


def _fixed() -> object:
    from optuna.trial import FixedTrial

    return FixedTrial({"x": 0.0})


def test_a_space_in_a_package_imports_from_above(tmp_path: Path) -> None:
    texts = {
        "__init__.py": "",
        "spaces/__init__.py": "",
        "parts.py": "FOUND = 1\n",
        "spaces/toy.py": f"from ..parts import FOUND\n{TOY}",
    }
    (tmp_path / "lab_of_toy" / "spaces").mkdir(parents=True)
    for name, text in texts.items():
        (tmp_path / "lab_of_toy" / name).write_text(text)
    space = load_space(tmp_path / "lab_of_toy" / "spaces" / "toy.py")
    assert set(space.modules) == {
        "lab_of_toy/spaces/toy.py",
        "lab_of_toy/spaces/__init__.py",
        "lab_of_toy/__init__.py",
        "lab_of_toy/parts.py",
    }
    assert set(space.files) == {
        *("toy.py", "__init__.py", "lab_of_toy/__init__.py", "lab_of_toy/parts.py"),
    }


def test_installed_packages_and_this_one_are_no_part_of_it(tmp_path: Path) -> None:
    line = "import json, sched, numpy\nfrom meanflow_tune.losses import LossMix\nFOUND = 1"
    space = load_space(write(tmp_path, toy=line + TOY))
    assert list(space.files) == ["toy.py"]
    assert space.source_hash == hashlib.sha256((tmp_path / "toy.py").read_bytes()).hexdigest()


def test_a_helper_that_fails_leaves_nothing_imported(tmp_path: Path) -> None:
    space = write(tmp_path, toy=f"import half_of_toy\n{TOY}", half_of_toy="X = 1", helper_of_toy="")
    (tmp_path / "half_of_toy.py").write_text("import helper_of_toy\nraise OSError('no')\n")
    with pytest.raises(SpaceError, match="OSError: no"):
        load_space(space)
    assert not {"half_of_toy", "helper_of_toy", "_space_toy"} & set(sys.modules)


def test_a_space_loads_in_a_process_whose_folder_is_elsewhere(tmp_path: Path) -> None:
    space = write(tmp_path, toy="from helper_of_toy import FOUND" + TOY, helper_of_toy="FOUND = 1")
    code = f"from meanflow_tune.search.space.load import load_space; load_space({str(space)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_a_study_names_the_files_that_changed(tmp_path: Path) -> None:
    line = "from helper_of_toy import FOUND\nimport other_of_toy"
    path = write(tmp_path, toy=line + TOY, helper_of_toy="FOUND = 1", other_of_toy="")
    before = load_space(path)
    (tmp_path / "helper_of_toy.py").write_text("FOUND = 2\nimport third_of_toy\n")
    (tmp_path / "third_of_toy.py").write_text("")
    path.write_text(path.read_text().replace("import other_of_toy", ""))
    now = load_space(path)
    old, new = (
        manifest(space_hash=s.source_hash, space_files=dict(s.files)) for s in (before, now)
    )
    with pytest.raises(StudyChanged) as changed:
        check_terms(old, new, 3, accept=False).enforce()
    assert (
        "the source of the search space changed (helper_of_toy.py differs, other_of_toy.py is gone,"
        " third_of_toy.py is new, toy.py differs)"
    ) in str(changed.value)


@pytest.mark.parametrize("version", [0, 1], ids=["of the file", "of what its text imports"])
def test_a_study_of_an_earlier_version_is_no_other(tmp_path: Path, version: int) -> None:
    path = write(tmp_path, toy="from .helper_of_toy import FOUND" + TOY, helper_of_toy="FOUND = 1")
    space = load_space(path)
    old = manifest(space_hash=space.earlier_hashes[version])
    new = manifest(space_hash=space.source_hash, space_files=dict(space.files))
    assert is_source_of(old, space.source_hash, space.earlier_hashes)
    check_terms(with_source(old, new, space.earlier_hashes), new, 3, accept=False).enforce()
    other = manifest(space_hash="0" * 64)
    assert with_source(other, new, space.earlier_hashes) is other
