"""Moving a study between its journal and databases: exact, once, and never two that differ."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import BaseStorage

from meanflow_tune.files import sqlite_below
from meanflow_tune.records import Report
from meanflow_tune.search.errors import LeaseLost, StorageError
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.store.trials import read_records, relocate_artifacts
from meanflow_tune.search.study.relocate import find_study, open_study
from tests.support.manifests import manifest
from tests.support.studies import NAME, allow, make_ledger, run_all, run_job

OPENED = partial(open_storage, fence=allow)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study in its journal: four trials, the last of them unfinished, and a confirmation."""
    folder = tmp_path / NAME
    ledger = make_ledger(folder, open_storage(folder / JOURNAL_NAME, allow), total=4)
    for _ in range(3):
        job = ledger.next()
        assert job is not None
        run_job(ledger, job)
    assert ledger.next() is not None
    run_all(make_ledger(folder, study_name=f"{NAME}/confirm", total=2))
    return folder


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


def bring(folder: Path, url: str | None, fence: Any = allow) -> BaseStorage:
    """What a driver does: open the study there, and write down where it is."""
    storage = open_study(folder, NAME, url, partial(open_storage, fence=fence))
    manifest(study=NAME, study_storage=url).write(folder)
    return storage


def contents(storage: BaseStorage) -> dict[str, Any]:
    found = {}
    for study in storage.get_all_studies():
        trials = storage.get_all_trials(study._study_id)
        attrs = {k: v for k, v in study.user_attrs.items() if k not in ("copied", "moved_to")}
        whole = [(t.number, t.state, t.values, t.params, t.distributions) for t in trials]
        kept = [(t.user_attrs, t.system_attrs, t.intermediate_values) for t in trials]
        times = [(t.datetime_start, t.datetime_complete) for t in trials]
        found[study.study_name] = (study.directions, attrs, whole, kept, times)
    return found


def test_there_and_back_and_there_again(folder: Path, url: str) -> None:
    before = contents(open_storage(folder / JOURNAL_NAME))
    assert set(before) == {NAME, f"{NAME}/confirm"}
    database = bring(folder, url)
    assert contents(database) == before
    assert not (folder / JOURNAL_NAME).exists()
    assert (folder / f"{JOURNAL_NAME}.moved-1").exists()
    ledger = make_ledger(folder, database, total=5)
    run_all(ledger)
    later = contents(database)
    journal = bring(folder, None)
    assert contents(journal) == later
    run_all(make_ledger(folder, journal, total=6))
    again = bring(folder, url)  # the database's own copy is an earlier state of it
    assert len(read_records(again, NAME, folder)) == 6
    assert contents(again) == contents(open_storage(folder / f"{JOURNAL_NAME}.moved-2"))


def test_nothing_is_copied_where_nothing_moved(folder: Path, url: str) -> None:
    journal = (folder / JOURNAL_NAME).read_bytes()
    bring(folder, None)
    assert (folder / JOURNAL_NAME).read_bytes() == journal
    bring(folder, url)
    bring(folder, url)
    assert len(list(folder.glob("*.moved-*"))) == 1


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize(
    "after", [1, 6, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 2, 11))]
)
def test_a_kill_while_copying_loses_and_doubles_nothing(folder: Path, url: str, after: int) -> None:
    before, left = contents(open_storage(folder / JOURNAL_NAME)), after

    def fence() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    with pytest.raises(Killed):
        bring(folder, url, fence)
    assert (folder / JOURNAL_NAME).exists()
    assert contents(bring(folder, url)) == before


def test_a_kill_between_the_copy_and_the_new_name(
    folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(open_storage(folder / JOURNAL_NAME))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda path, to: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            bring(folder, url)
    assert contents(bring(folder, url)) == before
    assert not (folder / JOURNAL_NAME).exists()


def test_two_places_that_differ_are_refused(folder: Path, url: str) -> None:
    run_all(make_ledger(folder, open_storage(url, allow), total=2, seed=9))
    with pytest.raises(StorageError, match=r"both .*study.journal and sqlite:.* hold a study toy"):
        bring(folder, url)
    assert (folder / JOURNAL_NAME).exists()


def test_a_journal_that_began_beside_a_database_is_refused(folder: Path, url: str) -> None:
    bring(folder, url)
    run_all(make_ledger(folder, open_storage(folder / JOURNAL_NAME, allow), total=3, seed=9))
    for place in (url, None):
        with pytest.raises(StorageError, match="both"):
            open_study(folder, NAME, place, OPENED)


def test_readers_find_it_without_being_told(folder: Path, url: str, tmp_path: Path) -> None:
    assert find_study(folder, None) == folder / JOURNAL_NAME
    bring(folder, url)
    assert find_study(folder, None) == url
    assert find_study(tmp_path / "none", None) == tmp_path / "none" / JOURNAL_NAME


def test_a_password_is_never_stored_and_must_be_given_again(folder: Path) -> None:
    shown = "postgresql://***@host/studies"
    (folder / JOURNAL_NAME).unlink()
    manifest(study=NAME, study_storage=shown).write(folder)
    with pytest.raises(StorageError, match=r"is in postgresql://\*\*\*@host.*needs a password"):
        open_study(folder, NAME, None, OPENED)
    with pytest.raises(
        StorageError, match=r"not stored: give its URL by --study-storage or OPTUNA"
    ):
        find_study(folder, None)
    assert find_study(folder, "postgresql://me:x@host/studies") == "postgresql://me:x@host/studies"


@pytest.mark.parametrize("stored", ["***", "other"])
@pytest.mark.parametrize("user", ["me", "me:pass"])
def test_another_user_of_the_same_database_moves_nothing(
    folder: Path, url: str, stored: str, user: str
) -> None:
    (folder / JOURNAL_NAME).unlink()
    manifest(study=NAME, study_storage=f"postgresql://{stored}@host/studies").write(folder)
    opened: list[str | Path] = []

    def open_at(location: str | Path) -> BaseStorage:
        opened.append(location)
        return open_storage(url, allow)

    open_study(folder, NAME, f"postgresql://{user}@host/studies", open_at)
    assert opened == [f"postgresql://{user}@host/studies"]


def test_every_single_write_to_a_database_is_fenced(folder: Path, url: str) -> None:
    allowed = 10

    def fence() -> None:
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise LeaseLost("taken over")

    storage = open_storage(url, fence)
    with pytest.raises(LeaseLost):
        run_all(make_ledger(folder, storage))
    allowed = 0
    study_id = storage.get_study_id_from_name(NAME)
    frozen = storage.get_all_trials(study_id)[0]
    for write in (
        lambda: storage.set_study_user_attr(study_id, "a", 1),
        lambda: storage.set_trial_user_attr(frozen._trial_id, "a", 1),
        lambda: storage.create_new_trial(study_id),
        lambda: storage.delete_study(study_id),
    ):
        with pytest.raises(LeaseLost):
            write()
    with pytest.raises(StorageError, match="opened for reading only"):
        open_storage(url).create_new_trial(study_id)


def test_artifacts_are_found_where_the_folder_is_now(tmp_path: Path) -> None:
    paths = {
        "samples": "/old/runs/toy/trials/00003/samples/100.npz",
        "other": "/somewhere/else.png",
        "up": "/old/runs/toy/trials/00003/../../../../secret.png",
    }
    report = Report(100, {}, {}, 0.0, artifacts=paths)
    moved = relocate_artifacts(report, tmp_path / "toy" / "trials" / "00003")
    assert moved.artifacts == {
        "samples": str(tmp_path / "toy/trials/00003/samples/100.npz"),
    }, "no file outside the trial's folder is read, shown or sent"
    same = relocate_artifacts(moved, tmp_path / "toy" / "trials" / "00003")
    assert same is moved


def test_a_moved_folder_goes_on(folder: Path, tmp_path: Path) -> None:
    new = tmp_path / "elsewhere" / "runs" / NAME
    new.parent.mkdir(parents=True)
    shutil.move(folder, new)
    ledger = make_ledger(new, total=5)
    run_all(ledger)
    assert [Path(record.folder).parent.parent for record in ledger.records()] == [new] * 5


RELATIVE = "sqlite:///own.db"


def test_a_relative_database_of_an_earlier_version_is_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path was taken from the current folder; now it is taken from the storage folder."""
    before = contents(open_storage(folder / JOURNAL_NAME))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    bring(folder, RELATIVE)
    assert (work / "own.db").exists()
    assert find_study(folder, None) == f"sqlite:///{work / 'own.db'}"
    resolved = sqlite_below(RELATIVE, folder.parent)
    assert contents(bring(folder, resolved)) == before
    assert (tmp_path / "own.db").exists()
    monkeypatch.chdir("/")
    manifest(study=NAME, study_storage=RELATIVE).write(folder)
    assert find_study(folder, None) == resolved
    assert contents(open_study(folder, NAME, resolved, OPENED)) == before


def test_a_relative_database_that_is_nowhere_is_named(folder: Path) -> None:
    (folder / JOURNAL_NAME).unlink()
    manifest(study=NAME, study_storage=RELATIVE).write(folder)
    for attempt in (
        lambda: find_study(folder, None),
        lambda: open_study(folder, NAME, None, OPENED),
    ):
        with pytest.raises(StorageError, match=r"recorded to be in sqlite:///own.db, and neither"):
            attempt()
