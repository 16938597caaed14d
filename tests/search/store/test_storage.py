"""Storage: torn tails, stale locks, a full disk, reading without touching."""

import errno
import os
import threading
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import (
    JournalFileBackend,
    JournalFileOpenLock,
    JournalFileSymlinkLock,
)

from meanflow_tune.search.errors import LeaseLost, StorageError
from meanflow_tune.search.store.storage import (
    JOURNAL_NAME,
    FencedJournal,
    JournalLock,
    open_storage,
    repair_journal,
)
from tests.support.disks import NoLinks
from tests.support.studies import NAME, allow, make_ledger, run_all


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    run_all(make_ledger(tmp_path, total=2))
    return tmp_path / JOURNAL_NAME


@pytest.mark.parametrize("tail", [b'{"op_code": 4, "work', b"\0" * 50, b"{}\n", b"\n", b"{}"])
def test_a_torn_tail_is_cut_and_a_copy_kept(journal: Path, tail: bytes) -> None:
    sound = journal.read_bytes()
    journal.write_bytes(sound + tail)
    copy = repair_journal(journal)
    assert journal.read_bytes() == sound
    assert copy is not None
    assert copy.read_bytes() == sound + tail
    assert repair_journal(journal) is None
    journal.write_bytes(sound + tail)
    assert repair_journal(journal) not in (None, copy)


def test_damage_with_sound_lines_behind_it_is_not_cut(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:3], lines[3][:9] + b"\n", *lines[4:]])
    journal.write_bytes(damaged)
    for fence in (allow, None):
        with pytest.raises(StorageError):
            open_storage(journal, fence)
    with pytest.raises(StorageError, match=r"line 4 of .*study.journal is damaged"):
        open_storage(journal, allow)
    assert journal.read_bytes() == damaged


def test_a_dead_drivers_lock_is_removed_after_a_take_over(journal: Path) -> None:
    lock = Path(f"{journal}.lock")
    os.symlink(journal, lock)
    ledger = make_ledger(journal.parent, open_storage(journal, allow, recover=True), total=3)
    assert ledger.next() is not None
    assert not lock.is_symlink()


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_links_the_lock_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    no_links = NoLinks(monkeypatch, code)
    path = tmp_path / JOURNAL_NAME
    run_all(make_ledger(tmp_path, open_storage(path, allow)))
    assert no_links.asked == 1, "it is asked again and again"
    assert not Path(f"{path}.lock").exists()
    assert len(optuna.load_study(study_name=NAME, storage=open_storage(path)).trials) == 8


@pytest.mark.parametrize("linked", [True, False])
def test_a_lock_of_another_program_excludes_the_other_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    """A link of Optuna's own lock, taken where this process has none; and the other way round."""
    path = tmp_path / JOURNAL_NAME
    kinds = JournalFileSymlinkLock(str(path)), JournalFileOpenLock(str(path))
    other = kinds[0] if linked else kinds[1]
    other.acquire()
    if linked:
        NoLinks(monkeypatch)
    lock, taken = JournalLock(path), threading.Event()
    thread = threading.Thread(target=lambda: (lock.acquire(), taken.set()))
    thread.start()
    assert not taken.wait(0.3)
    other.release()
    assert taken.wait(10.0)
    lock.release()
    thread.join()
    assert not os.path.lexists(f"{path}.lock")


def test_a_disk_that_refuses_the_lock_is_not_one_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    NoLinks(monkeypatch, errno.EROFS)
    storage = open_storage(tmp_path / JOURNAL_NAME, allow)
    with pytest.raises(OSError, match="Read-only"):
        make_ledger(tmp_path, storage).next()


def test_reading_never_writes(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes() + b'{"op_code"')
    before = journal.read_bytes(), sorted(os.listdir(journal.parent))
    storage = open_storage(journal)
    study = optuna.load_study(study_name=NAME, storage=storage)
    assert len(study.trials) == 2
    with pytest.raises(StorageError, match="reading only"):
        study.ask()
    assert (journal.read_bytes(), sorted(os.listdir(journal.parent))) == before
    missing = journal.parent / "other.journal"
    with pytest.raises(StorageError, match="there is no study"):
        open_storage(missing)
    assert not missing.exists()


def test_a_full_disk_leaves_the_journal_sound(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = make_ledger(journal.parent, total=3)
    before = journal.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="free some space"):
            ledger.next()
    assert journal.read_bytes() == before
    job = ledger.next()
    assert job is not None
    assert job.number == 2


def test_every_single_write_is_fenced(tmp_path: Path) -> None:
    allowed = 6

    def fence() -> None:
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise LeaseLost("taken over")

    storage = open_storage(tmp_path / JOURNAL_NAME, fence)
    with pytest.raises(LeaseLost):
        run_all(make_ledger(tmp_path, storage))
    assert len((tmp_path / JOURNAL_NAME).read_text().splitlines()) == 6
    assert not Path(f"{tmp_path / JOURNAL_NAME}.lock").is_symlink()


def test_a_database_that_does_not_open_is_named_without_its_password() -> None:
    with pytest.raises(StorageError) as caught:
        open_storage("sqlite://me:secret@/x", allow)
    assert "secret" not in str(caught.value)
    assert "sqlite://***@" in str(caught.value)


def test_lines_of_another_program_survive_a_failed_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Optuna dashboard may have appended a note between a line and its sync on a full disk."""
    path = tmp_path / "study.journal"
    journal = FencedJournal(path, lambda: None)
    first, note, second = ({"op_code": code, "worker_id": "w"} for code in range(3))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def disk_is_full() -> None:
        with journal.batch():
            journal.append_logs([first])
            JournalFileBackend(str(path)).append_logs([note])
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StorageError):
        disk_is_full()
    monkeypatch.undo()
    journal.append_logs([second])
    found = list(JournalFileBackend(str(path)).read_logs(0))
    assert found[:2] == [first, note]
    assert found.count(first) == found.count(note) == 1
