"""The manifest: what binds a study, what is only worth a warning."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.search.errors import StorageError, StudyChanged
from meanflow_tune.search.store.manifest import (
    BINDING_FIELDS,
    HASHED_PARTS,
    MANIFEST_NAME,
    NOTED_FIELDS,
    UNHASHED_MODULES,
    Manifest,
    check_terms,
    code_hash,
    compare,
    package_versions,
    part_hashes,
)
from tests.support.manifests import manifest
from tests.support.paths import PACKAGE

ALL_FIELDS = (*BINDING_FIELDS, *NOTED_FIELDS)


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
    assert compare(manifest(), manifest(), ALL_FIELDS) == []  # made at different times
    terms = check_terms(manifest(), manifest(), trials=3, accept=False)
    terms.enforce()
    assert (terms.binding, terms.notes, terms.manifest.history) == ((), (), ())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"objective": "gap@2"}, "objective was gap@1 and is gap@2"),
        ({"overrides": ()}, "--set was budget.images=100 and is none"),
        ({"space_hash": "b" * 64}, "the source of the search space changed (aaaaaaaa -> bbbbbbbb)"),
        ({"data_fingerprint": "bar"}, "the fingerprint of the data was f00 and is bar"),
        ({"versions": {"torch": "0.1", "python": "3"}}, "torch was 0.1 and is 2"),
        ({"code": {"losses": "a", "core": "0"}}, "the code of core changed"),
    ],
)
def test_binding_terms_stop_a_resume_and_are_recorded_once_accepted(
    change: dict[str, Any], sentence: str
) -> None:
    base = {"versions": {"torch": "2", "python": "3"}, "code": {"losses": "a", "core": "b"}}
    old, new = manifest().model_copy(update=base | change), manifest().model_copy(update=base)
    if not change.keys() & base.keys():
        old, new = new, old
        new = new.model_copy(update=change)
    assert compare(old, new, ALL_FIELDS) == [sentence]
    with pytest.raises(StudyChanged) as caught:
        check_terms(old, new, trials=3, accept=False).enforce()
    for part in (sentence, "another study name", "--accept-changes"):
        assert part in str(caught.value)
    terms = check_terms(old, new, trials=3, accept=True)
    terms.enforce()
    (entry,) = terms.manifest.history
    assert (entry.changes, entry.first_trial, entry.terms) == ((sentence,), 3, 1)
    assert terms.manifest.terms == 1
    # The next run has nothing to accept, and keeps what was.
    again = check_terms(terms.manifest, new, trials=5, accept=True)
    assert (again.manifest.terms, again.manifest.history) == (1, terms.manifest.history)


def test_before_the_first_trial_everything_may_change() -> None:
    terms = check_terms(manifest(), manifest(objective="gap@2"), trials=0, accept=False)
    terms.enforce()
    assert terms.manifest.terms == 0


def test_a_renamed_folder_is_never_accepted() -> None:
    with pytest.raises(StudyChanged, match="was made for study digits"):
        check_terms(manifest(), manifest(study="other"), trials=3, accept=True)


def test_how_to_search_may_change_freely_and_is_recorded() -> None:
    new = manifest(sampler="qmc", seed=4, trials=20, time_budget=60.0)
    terms = check_terms(manifest(trials=8), new, trials=5, accept=False)
    terms.enforce()
    assert terms.notes == (
        "note: --sampler was tpe and is qmc",
        "note: --seed was 3 and is 4",
        "note: --trials was 8 and is 20",
        "note: --time-budget was none and is 60 s",
    )
    (entry,) = terms.manifest.history
    assert (entry.first_trial, entry.terms, entry.accepted) == (5, 0, False)


def test_a_manifest_of_an_earlier_version_is_read_and_what_it_lacks_is_not_compared(
    tmp_path: Path,
) -> None:
    early = manifest().model_dump(mode="json")
    for name in ("code", "startup_trials", "trials", "time_budget", "study_storage", "terms"):
        del early[name]
    del early["history"]
    early["versions"] = {"meanflow-tune": "0.0.1", **early["versions"]}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(early))
    old = Manifest.read(tmp_path)
    assert old is not None
    assert check_terms(old, manifest(trials=9), trials=3, accept=False).binding == ()


def test_only_code_that_determines_numbers_binds(tmp_path: Path) -> None:
    """A typo fixed in the live view does not stop a search of a week."""
    package = tmp_path / "package"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = part_hashes(package)
    for name in (
        "report/live.py",
        "search/store/lease.py",
        "results/parquet.py",
        "plan/request.py",
    ):
        (package / name).write_text("x = 1\n")
    assert part_hashes(package) == before
    for name in ("losses/new.py", "search/study/ledger.py", "plan/confirm.py"):
        (package / name).write_text("x = 1\n")
    changed = {part for part, now in part_hashes(package).items() if now != before[part]}
    assert changed == {"losses", "search", "plan/confirm"}


def test_every_part_that_is_named_is_there() -> None:
    for part in HASHED_PARTS:
        assert (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file(), part
    for module in UNHASHED_MODULES:
        assert (PACKAGE / f"{module}.py").is_file(), module


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
