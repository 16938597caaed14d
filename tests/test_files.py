"""Writes that wait while a disk is full, on a real small one: nothing is lost, torn or said twice."""

import errno
import json
import logging
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from meanflow_tune.files import (
    LEFT_SECONDS,
    OnlyShown,
    WaitForSpace,
    is_full,
    put_if_absent,
    sqlite_below,
    sqlite_path,
    sqlite_url,
    write_atomic,
)
from meanflow_tune.search.errors import LeaseLost, StorageError
from meanflow_tune.search.store.holder import LEASE_NAME, read_lease
from meanflow_tune.search.store.lease import Lease
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.tracking.outbox import Event, Outbox
from meanflow_tune.tracking.replay import Replayer
from tests.support.disks import NoLinks, exfat_disk, fill, small_disk
from tests.support.studies import allow, make_ledger, outcome_of, run_all


def never() -> bool:
    return False


class Freeing:
    """A sleep during which, the third time, somebody deletes the file that took all space."""

    def __init__(self, filler: Path) -> None:
        self.filler, self.calls = filler, 0

    def __call__(self, seconds: float) -> None:
        self.calls += 1
        if self.calls == 3:
            self.filler.unlink()


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_a_study_waits_for_space_and_the_search_is_the_same(kind: str, tmp_path: Path) -> None:
    """A full disk truncated the stock experiment state, and its restore began a second search."""
    run_all(make_ledger(tmp_path / "whole"))
    said: list[str] = []
    with small_disk(tmp_path / "small", 2) as disk:
        sleep = Freeing(disk / "filler")
        patience = WaitForSpace(said.append, never, sleep=sleep)
        where = disk / JOURNAL_NAME if kind == "journal" else f"sqlite:///{disk}/study.db"
        storage = open_storage(where, allow, write_policy=patience)
        ledger = make_ledger(disk, storage)
        assert ledger.next() is not None
        fill(disk)
        run_all(make_ledger(disk, storage))
        assert sleep.calls == 3
        assert outcome_of(disk, where) == outcome_of(tmp_path / "whole")
        assert not Path(f"{disk / JOURNAL_NAME}.lock").is_symlink()
    assert len(said) == 2, said
    assert str(disk) in said[0]
    assert "0.0 MB free" in said[0]
    assert "again" in said[1]


def test_the_outbox_waits_for_space_and_keeps_every_event_once(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 1) as disk:
        said: list[str] = []
        patience = WaitForSpace(said.append, never, sleep=Freeing(disk / "filler"))
        outbox = Outbox(disk, write_policy=patience)
        outbox.put("note", n=0)
        fill(disk)
        for n in range(1, 100):
            outbox.put("note", key=str(n), n=n, text="x" * 500)
        outbox.close()
        lines = (disk / "outbox" / "events.jsonl").read_text().splitlines()
        assert [json.loads(line)["payload"]["n"] for line in lines] == list(range(100))
        assert len(said) == 2


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_a_stop_ends_the_waiting_with_the_study_sound(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # Optuna itself tries again for 8 s
    stop = threading.Event()
    with small_disk(tmp_path / "small", 1) as disk:
        patience = WaitForSpace(lambda line: stop.set(), stop.is_set, sleep=lambda seconds: None)
        where = disk / JOURNAL_NAME if kind == "journal" else f"sqlite:///{disk}/study.db"
        storage = open_storage(where, allow, write_policy=patience)
        ledger = make_ledger(disk, storage)
        fill(disk)
        with pytest.raises(StorageError, match="free some space") as caught:
            run_all(ledger)
        assert is_full(caught.value)
        if kind == "journal":
            assert (disk / JOURNAL_NAME).read_bytes().endswith(b"\n")
        (disk / "filler").unlink()
        run_all(make_ledger(disk, open_storage(where, allow)))


def test_many_threads_that_wait_are_told_of_once() -> None:
    said: list[str] = []
    space = threading.Event()
    patience = WaitForSpace(said.append, never, pause=0.001)

    def write() -> str:
        if not space.is_set():
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return "written"

    done: list[str] = []
    threads = [
        threading.Thread(target=lambda: done.append(patience(write, Path("/x")))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    while patience._waiting < 5:
        time.sleep(0.001)
    space.set()
    for thread in threads:
        thread.join()
    assert done == ["written"] * 5
    assert len(said) == 2


def test_other_errors_are_raised_at_once() -> None:
    def broken() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        WaitForSpace(pytest.fail, never, sleep=pytest.fail)(broken, Path("/x"))


def test_an_atomic_write_on_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "small", 1) as disk:
        write_atomic(disk / "status", "old")
        fill(disk)
        with pytest.raises(OSError) as caught:
            write_atomic(disk / "status", "new" * 100_000)
        assert caught.value.errno == errno.ENOSPC
        assert (disk / "status").read_text() == "old"
        assert sorted(os.listdir(disk)) == ["filler", "status"]


def test_a_lease_beats_and_is_held_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 1) as disk:
        with Lease.acquire(disk, stale_after=0.05) as lease:
            fill(disk)
            before = (disk / LEASE_NAME).stat().st_mtime_ns
            while (disk / LEASE_NAME).stat().st_mtime_ns == before:
                time.sleep(0.01)
            lease.check()
        state = read_lease(disk)
        assert state is not None
        assert state.epoch == 1


# ---- a driver that was replaced while it was suspended ----------------------------------------


def test_a_replaced_driver_puts_nothing_into_the_outbox(tmp_path: Path) -> None:
    lost = False

    def fence() -> None:
        if lost:
            raise LeaseLost("another driver has the study")

    applied: list[int] = []

    class Sink:
        def apply(self, event: Event) -> None:
            applied.append(event.payload["n"])

    outbox = Outbox(tmp_path, fence)
    outbox.put("note", n=0)
    with Replayer(outbox, Sink(), first_delay=0.001, longest_delay=0.001) as replayer:
        assert replayer.drain(120.0) == 0
        outbox.put("note", n=1)
        assert replayer.drain(120.0) == 0
        files = {path.name: path.read_bytes() for path in outbox.folder.iterdir()}
        lost = True
        with pytest.raises(LeaseLost):
            outbox.put("note", n=2)
    assert {path.name: path.read_bytes() for path in outbox.folder.iterdir()} == files
    # What waits when the lease is lost is left to the new driver.
    lost = False
    outbox.put("note", n=3)
    lost = True
    with Replayer(outbox, Sink(), first_delay=0.001, longest_delay=0.001) as replayer:
        while replayer.status().error is None:
            time.sleep(0.001)
        assert "another driver" in str(replayer.status().error)
    assert applied == [0, 1]


def test_a_worker_and_a_thread_that_wait_are_one_message() -> None:
    said: list[str] = []
    space = WaitForSpace(said.append, lambda: False, sleep=lambda seconds: None)
    space.begin("/data", "0.0 MB free")
    tries = iter([OSError(errno.ENOSPC, "full"), None])

    def write() -> None:
        if error := next(tries):
            raise error

    space(write, Path("/data"))
    assert len(said) == 1
    space.end("/data")
    assert len(said) == 2


def test_threads_may_write_one_path_at_once(tmp_path: Path) -> None:
    """They had one temporary name per process, and one thread renamed the file of the other."""
    path, failures = tmp_path / "status.json", []
    start = threading.Barrier(2)

    def write(name: str) -> None:
        start.wait()
        for count in range(200):
            try:
                write_atomic(path, json.dumps({"name": name, "count": count}))
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert json.loads(path.read_text())["count"] == 199
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a.json", "{}")
        write_atomic(tmp_path / "b.bin", lambda path: path.write_bytes(b"x"))
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    old = time.time() - LEFT_SECONDS - 60.0
    names = [".a.pt.123.tmp", ".a.pt.0123456789abcdef.tmp", ".new.pt.124.tmp", "a.tmp", ".a.pt.swp"]
    for name in names:
        (tmp_path / name).touch()
        if not name.startswith(".new"):
            os.utime(tmp_path / name, (old, old))
    write_atomic(tmp_path / "b.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {"b.json", *names[2:]}
    assert not list(tmp_path.glob("*.pt"))


def test_what_is_only_shown_ends_nothing_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said: list[str] = []
    shown = OnlyShown(said.append, (LeaseLost,))

    def fail(error: Exception) -> None:
        raise error

    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            assert shown("draw", lambda: fail(RuntimeError("no font\nat all")), 7) == 7
        assert shown("draw", lambda: fail(OSError(errno.ENOSPC, "full")), 7) == 7
    assert said == ["could not draw (RuntimeError: no font); the search continues"]
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info
    assert caplog.records[0].levelno == logging.DEBUG, "a user sees no traceback"
    assert shown("draw", lambda: 3, 7) == 3
    with pytest.raises(LeaseLost):
        shown("draw", lambda: fail(LeaseLost("another driver")), 7)
    with pytest.raises(OSError, match="full"):
        shown("draw", lambda: fail(OSError(errno.ENOSPC, "full")), 7, full=True)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_put_where_none_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        NoLinks(monkeypatch)
    target = tmp_path / "target"
    for text in ("first", "second"):
        source = tmp_path / text
        source.write_text(text)
        put_if_absent(source, target)
    assert target.read_text() == "first"


def test_a_file_that_cannot_be_put_for_another_reason_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    NoLinks(monkeypatch, errno.ENOSPC)
    (tmp_path / "source").touch()
    with pytest.raises(OSError, match="No space left"):
        put_if_absent(tmp_path / "source", tmp_path / "target")


def test_a_folder_that_cannot_be_synced_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network shares refuse to sync a folder; a file that cannot be synced is another matter."""
    sync = os.fsync

    def no_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    write_atomic(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_a_study_on_a_file_system_without_links(tmp_path: Path) -> None:
    run_all(make_ledger(tmp_path / "whole"))
    with exfat_disk(tmp_path / "card", 16) as disk:
        (disk / "file").touch()
        for link in (os.link, os.symlink):
            with pytest.raises(OSError, match=r"not permitted|not implemented"):
                link(disk / "file", disk / "link")
        with Lease.acquire(disk) as lease:
            storage = open_storage(disk / JOURNAL_NAME, lease.check)
            run_all(make_ledger(disk, storage))
        assert outcome_of(disk, disk / JOURNAL_NAME) == outcome_of(
            tmp_path / "whole", tmp_path / "whole" / JOURNAL_NAME
        )
        (disk / "new").write_text("x")
        put_if_absent(disk / "new", disk / "target")
        assert (disk / "target").read_text() == "x"
        del storage


@pytest.mark.parametrize("name", ["plain", "a?b", "50%41", "a#b c", "größe"])
def test_urls_of_databases_in_any_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "study.db"
    path.parent.mkdir()
    assert sqlite_path(sqlite_url(path)) == path
    run_all(make_ledger(path.parent, open_storage(sqlite_url(path), allow)))
    assert path.is_file()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:///study.db", "sqlite:////runs/study.db"),
        ("sqlite+pysqlite:///a/b.db?timeout=9", "sqlite+pysqlite:////runs/a/b.db?timeout=9"),
        ("sqlite:////elsewhere/study.db", "sqlite:////elsewhere/study.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite:///file:study.db?uri=true", "sqlite:///file:study.db?uri=true"),
        ("postgresql://u:p@host/db", "postgresql://u:p@host/db"),
    ],
)
def test_a_relative_database_is_taken_from_a_folder(given: str, expected: str) -> None:
    assert sqlite_below(given, Path("/runs")) == expected
