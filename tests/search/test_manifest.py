"""The manifest: what binds a study, what is only worth a warning."""

from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.search.errors import StorageError, StudyChanged
from meanflow_tune.search.manifest import (
    MANIFEST_NAME,
    Manifest,
    check_resumable,
    code_hash,
    compare,
    package_versions,
)

TERMS: dict[str, Any] = {
    "study": "digits",
    "space": "second_order",
    "space_hash": "a" * 64,
    "goal": "settle it",
    "objective": "gap@1",
    "overrides": ("budget.images=100",),
    "sampler": "tpe",
    "seed": 3,
    "rungs": "none",
    "data_fingerprint": "f00",
}


def manifest(**changes: Any) -> Manifest:
    return Manifest.make(**(TERMS | changes))


def test_round_trip(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    assert Manifest.read(folder) is None
    written = manifest()
    written.write(folder)
    assert Manifest.read(folder) == written
    assert [path.name for path in folder.iterdir()] == [MANIFEST_NAME]


def test_an_unreadable_manifest_is_an_error(tmp_path: Path) -> None:
    for text in ("{", '{"study": "x"}'):
        (tmp_path / MANIFEST_NAME).write_text(text)
        with pytest.raises(StorageError, match="not a readable manifest"):
            Manifest.read(tmp_path)


def test_equal_terms_have_no_differences() -> None:
    assert compare(manifest(), manifest()) == []  # made at different times
    assert check_resumable(manifest(), manifest()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"objective": "gap@2"}, "objective was gap@1 and is gap@2"),
        ({"overrides": ()}, "overrides was budget.images=100 and is none"),
        ({"space_hash": "b" * 64}, "the source of the search space changed (aaaaaaaa -> bbbbbbbb)"),
        ({"data_fingerprint": "bar"}, "data fingerprint was f00 and is bar"),
    ],
)
def test_binding_terms_refuse_a_resume(change: dict[str, Any], sentence: str) -> None:
    assert compare(manifest(), manifest(**change)) == [sentence]
    with pytest.raises(StudyChanged) as caught:
        check_resumable(manifest(), manifest(**change))
    assert sentence in str(caught.value)
    assert "another study name" in str(caught.value)


def test_other_terms_warn() -> None:
    new = manifest(sampler="qmc", seed=4).model_copy(
        update={"versions": manifest().versions | {"torch": "0.1"}, "code_hash": "c" * 64}
    )
    warnings = check_resumable(manifest(), new)
    assert warnings[0] == "sampler was tpe and is qmc"
    assert warnings[1] == "seed was 3 and is 4"
    assert warnings[2].startswith("meanflow_tune's code changed")
    assert warnings[3].startswith("torch was ")
    assert len(warnings) == 4


def test_versions_and_code_hash(tmp_path: Path) -> None:
    assert {"python", "optuna"} <= package_versions().keys()
    assert "no-such-package" not in package_versions(["no-such-package"])
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/a.py").write_text("x = 1\n")
    (tmp_path / "notes.txt").write_text("1")
    first = code_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("2")
    assert code_hash(tmp_path) == first
    (tmp_path / "inner/a.py").write_text("x = 2\n")
    second = code_hash(tmp_path)
    (tmp_path / "inner/a.py").rename(tmp_path / "inner/b.py")
    assert len({first, second, code_hash(tmp_path)}) == 3
