"""The paired sheet: one latent per place in all panels, and a sentence where something is lacking."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meanflow_tune.config import TrialConfig
from meanflow_tune.files import write_atomic
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.page.samples.sample_sheet import make_sheet, sheet_section, write_sheet
from meanflow_tune.report.page.samples.sample_sources import (
    NFES,
    POINTS,
    Deadline,
    SampleSource,
    Unavailable,
)
from tests.support.page.html_check import faults_of
from tests.support.page.page_study import page_view
from tests.support.page.trained_trial import train_trial


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrialRecord:
    return train_trial(tmp_path_factory.mktemp("storage"))


@pytest.fixture
def record(trained: TrialRecord, tmp_path: Path) -> TrialRecord:
    """A copy whose files a test may damage."""
    storage = Path(trained.folder).parents[2]
    shutil.copytree(storage, tmp_path / "copy")

    def moved(path: str) -> str:
        return path.replace(str(storage), str(tmp_path / "copy"))

    reports = tuple(
        replace(r, artifacts={name: moved(path) for name, path in r.artifacts.items()})
        for r in trained.reports
    )
    return replace(trained, folder=moved(trained.folder), reports=reports)


def nothing() -> None:
    """No stop."""


def source_of(record: TrialRecord, seconds: float | None = None) -> SampleSource:
    teachers = Path(record.folder).parents[2] / "teachers"
    return SampleSource(TrialConfig.from_dict(record.config), teachers, Deadline(seconds), nothing)


def test_samples_of_every_rung_and_nfe_start_from_the_latents_of_training(
    record: TrialRecord,
) -> None:
    source = source_of(record)
    first, last = source.frames(record)
    assert (first.images, last.images) == (128, 320)
    with np.load(record.reports[-1].artifacts["samples"]) as kept:
        assert np.array_equal(kept["latents"], source.latents[:20].numpy())
        for nfe in (1, 2, 4):
            assert np.allclose(last.samples[nfe][:20], kept[f"student@{nfe}"], atol=1e-5)
            assert not np.allclose(first.samples[nfe][:20], kept[f"student@{nfe}"], atol=1e-2)
            assert np.allclose(source.euler(nfe)[:20], kept[f"teacher@{nfe}"], atol=1e-5)
        assert np.allclose(source.solved()[0][:20], kept["teacher"], atol=1e-5)
    for frame in (first, last):
        assert {nfe: x.shape for nfe, x in frame.samples.items()} == dict.fromkeys(
            NFES, (POINTS, 2)
        )
        assert not frame.lacking


def test_without_models_the_kept_samples_are_shown(record: TrialRecord) -> None:
    shutil.rmtree(Path(record.folder) / "model")
    shutil.rmtree(Path(record.folder) / "checkpoints")
    last = source_of(record).frames(record)[-1]
    assert last.kept
    assert {nfe: len(x) for nfe, x in last.samples.items()} == {1: 20, 2: 20, 4: 20}
    assert last.lacking[8] == "the model was not kept"


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def scramble(path: Path) -> None:
    """A zip file of a version that no reader knows: NotImplementedError of zipfile."""
    data = bytearray(path.read_bytes())
    place = data.rfind(b"PK\x01\x02") + 6 if data.startswith(b"PK") else len(data) // 2
    data[place] = 0xFF
    path.write_bytes(bytes(data) if path.suffix == ".npz" else bytes(data[:100]))


@pytest.mark.parametrize("damage", [remove, cut, scramble])
def test_a_damaged_file_leaves_a_sentence(
    damage: Callable[[Path], None], record: TrialRecord
) -> None:
    folder = Path(record.folder)
    damage(folder / "model" / "student.safetensors")
    for path in (folder / "samples").glob("*.npz"):
        damage(path)
    for path in (folder / "checkpoints").glob("*.pt"):
        damage(path)
    last = source_of(record).frames(record)[-1]
    assert not last.samples
    assert all(last.lacking[nfe] for nfe in NFES)
    page = sheet_section([page_view(folder.parents[1], [record])]).body
    assert page.count("not shown:") == 1
    assert f'colspan="{len(NFES)}"' in page
    assert faults_of(page) == []


def test_samples_from_other_latents_are_not_shown_as_paired(record: TrialRecord) -> None:
    folder = Path(record.folder)
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints")
    for report in record.reports:
        path = Path(report.artifacts["samples"])
        with np.load(path) as arrays:
            changed = {name: arrays[name] for name in arrays.files}
        changed["latents"] = changed["latents"] + 1.0
        np.savez(path, **changed)
    last = source_of(record).frames(record)[-1]
    assert not last.samples
    assert "other latents" in last.lacking[1] or "not kept" in last.lacking[1]


def test_a_teacher_that_is_not_cached_is_not_trained(record: TrialRecord) -> None:
    teachers = Path(record.folder).parents[2] / "teachers"
    shutil.rmtree(teachers)
    with pytest.raises(Unavailable, match="not in the cache"):
        source_of(record).solved()
    sheet = make_sheet([page_view(Path(record.folder).parents[1], [record])], None, nothing)
    assert isinstance(sheet.single[1][2], str)
    assert not teachers.exists()


def test_a_damaged_teacher_is_named_and_neither_trained_nor_moved(record: TrialRecord) -> None:
    (path,) = (Path(record.folder).parents[2] / "teachers").glob("*/teacher.safetensors")
    cut(path)
    with pytest.raises(Unavailable, match=r"teacher\.safetensors is damaged \(its checksum"):
        source_of(record).solved()
    assert path.exists()


def test_at_the_end_of_a_search_what_takes_too_long_is_left_out(record: TrialRecord) -> None:
    sheet = make_sheet([page_view(Path(record.folder).parents[1], [record])], 0.0, nothing)
    student = sheet.rows[-1].frames[-1]
    assert {nfe: len(x) for nfe, x in student.samples.items()} == {1: 20, 2: 20, 4: 20}
    assert "scripts/report.py" in student.lacking[8]


def test_a_stop_is_no_lacking_sample(record: TrialRecord) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sheet([page_view(Path(record.folder).parents[1], [record])], None, stop)


def test_the_sheet_has_a_slider_texts_and_states(record: TrialRecord) -> None:
    page = sheet_section([page_view(Path(record.folder).parents[1], [record])]).body
    assert faults_of(page) == []
    assert 'data-steps="[128, 320]"' in page
    assert page.count("data-states=") == len(NFES)
    assert page.count('scope="col"') == len(NFES)


def test_the_sheet_of_a_paper_has_what_every_row_has(record: TrialRecord, tmp_path: Path) -> None:
    view = page_view(Path(record.folder).parents[1], [record])
    written = write_sheet(tmp_path, make_sheet([view], None, nothing))
    assert [path.name for path in written] == ["samples.png", "samples.svg"]


def test_a_damaged_model_is_replaced_by_its_checkpoint_and_else_by_the_kept_samples(
    record: TrialRecord,
) -> None:
    whole = source_of(record).frames(record)[-1]
    write_atomic(Path(record.folder) / "model" / "config.json", "{")
    frame = source_of(record).frames(record)[-1]
    assert not frame.lacking
    assert all(np.array_equal(frame.samples[nfe], whole.samples[nfe]) for nfe in NFES)
    shutil.rmtree(Path(record.folder) / "checkpoints")
    frame = source_of(record).frames(record)[-1]
    assert "damaged" in frame.lacking[8]
    assert {nfe: len(x) for nfe, x in frame.samples.items()} == {1: 20, 2: 20, 4: 20}
