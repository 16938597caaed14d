"""The format of a study's files: an older one is read, a newer one is refused by name."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from meanflow_tune.checksums import write_checked
from meanflow_tune.formats import FORMAT, FormatError, check_format
from meanflow_tune.results.errors import ResultsError
from meanflow_tune.results.frames import load
from meanflow_tune.results.parquet import write_results
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.store.manifest import Manifest, check_terms
from meanflow_tune.student_files import export_student, read_description
from meanflow_tune.training.checkpoints import load_checkpoint, save_checkpoint
from tests.support.manifests import manifest
from tests.support.records import record

NEWER = rf"newer version \(format {FORMAT + 1}; this one reads up to {FORMAT}\)"


@pytest.mark.parametrize("found", [None, *range(1, FORMAT + 1)])
def test_earlier_formats_are_read(found: int | None) -> None:
    assert check_format(found, "it") == (found or 1)


@pytest.mark.parametrize("found", [0, -1, "2", True, 1.5, []])
def test_what_is_no_version_is_refused(found: object) -> None:
    with pytest.raises(FormatError, match="which is no version"):
        check_format(found, "it")


def test_a_manifest_without_a_format_is_of_the_first_and_continues_as_the_newest(
    tmp_path: Path,
) -> None:
    new = manifest()
    new.write(tmp_path)
    path = tmp_path / "manifest.json"
    data = json.loads(path.read_text())
    assert data.pop("format") == FORMAT
    path.write_text(json.dumps(data))
    old = Manifest.read(tmp_path)
    assert old is not None
    assert old.format == 1
    terms = check_terms(old, new, 3, accept=False)
    assert terms.binding == ()
    assert f"note: the study is of format 1 and continues as {FORMAT}" in terms.notes
    assert terms.manifest.format == FORMAT


def test_a_newer_manifest_is_refused_by_name(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FORMAT + 1, "more": 1}))
    with pytest.raises(StorageError, match=NEWER):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "7", "[" * 5000, '{"format": "new"}'])
def test_a_damaged_manifest_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StorageError):
        Manifest.read(tmp_path)


def test_a_newer_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 10, {"step": 3})
    assert load_checkpoint(path) == {"step": 3}
    torch.save({"step": 3}, path)
    assert load_checkpoint(path) == {"step": 3}, "of the first format"
    torch.save({"step": 3, "format": FORMAT + 1}, path)
    with pytest.raises(FormatError, match=NEWER):
        load_checkpoint(path)


def test_a_newer_student_is_refused_by_name(tmp_path: Path) -> None:
    export_student(tmp_path, {}, {"w": torch.zeros(1)}, (2,), None)
    path = tmp_path / "config.json"
    data = read_description(tmp_path)
    assert data["format"] == FORMAT
    write_checked(path, json.dumps(data | {"format": FORMAT + 1}))
    with pytest.raises(FormatError, match=NEWER):
        read_description(tmp_path)


def test_a_newer_table_is_refused_by_name(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    for name in ("results.parquet", "metrics.parquet"):
        write_results(tmp_path / name, [record(0, "completed", 0.5)])
    assert len(load(tmp_path).trials) == 1
    path = tmp_path / "results.parquet"
    frame = pd.read_parquet(path)
    assert frame.attrs == {"format": FORMAT}
    frame.attrs["format"] = FORMAT + 1
    frame.to_parquet(path)
    with pytest.raises(ResultsError, match=NEWER):
        load(tmp_path)
