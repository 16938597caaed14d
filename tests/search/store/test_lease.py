"""The lease: one live holder, dead ones replaced, and a holder that lost it finds out."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meanflow_tune.search.errors import LeaseLost, StorageError, StudyInUse
from meanflow_tune.search.store.database_lease import DatabaseLease
from meanflow_tune.search.store.holder import LEASE_NAME, read_lease
from meanflow_tune.search.store.lease import Lease, check_epoch
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from tests.support.paths import ROOT
from tests.support.studies import allow, make_ledger, run_all

HOLD = """
import sys, time
from pathlib import Path
from meanflow_tune.search.errors import StudyInUse
from meanflow_tune.search.store.lease import Lease
try:
    lease = Lease.acquire(Path(sys.argv[1]))
except StudyInUse:
    print("refused", flush=True)
    sys.exit(4)
print("held", flush=True)
sys.stdin.read()
lease.release()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def make_foreign_and_old(folder: Path, seconds: float) -> None:
    """Make the lease look as if another host held it, `seconds` after its last heartbeat."""
    path = folder / LEASE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere"}))
    past = time.time() - seconds
    os.utime(path, (past, past))


def test_epochs_grow_over_releases(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        with Lease.acquire(tmp_path) as lease:
            assert (lease.epoch, lease.taken_over) == (epoch, False)
            lease.check()
    state = read_lease(tmp_path)
    assert state is not None
    assert (state.epoch, state.pid) == (3, None)


def test_a_live_holder_is_named(tmp_path: Path) -> None:
    with holder(tmp_path) as process, pytest.raises(StudyInUse) as caught:
        Lease.acquire(tmp_path)
    message = str(caught.value)
    assert f"process {process.pid} on host {os.uname().nodename}" in message
    assert "s ago" in message


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    with Lease.acquire(tmp_path), pytest.raises(StudyInUse):
        Lease.acquire(tmp_path)


def test_a_killed_holder_is_replaced_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but not yet reaped
        with Lease.acquire(tmp_path) as lease:
            assert (lease.epoch, lease.taken_over) == (2, True)


def test_a_reused_pid_is_not_the_holder(tmp_path: Path) -> None:
    with holder(tmp_path):
        path = tmp_path / LEASE_NAME
        data = json.loads(path.read_text())
        path.write_text(json.dumps(data | {"process_start": data["process_start"] - 1}))
        with Lease.acquire(tmp_path) as lease:
            assert lease.taken_over


def test_one_of_many_wins(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(5)]
    said = [process.stdout.readline() for process in processes if process.stdout]
    for process in processes:
        process.communicate("")
    assert sorted(said) == ["held\n"] + ["refused\n"] * 4
    assert sorted(process.returncode for process in processes) == [0, 4, 4, 4, 4]


def test_another_host_is_waited_for_and_then_replaced(tmp_path: Path) -> None:
    with holder(tmp_path):
        make_foreign_and_old(tmp_path, seconds=25)
        with pytest.raises(StudyInUse, match="on host elsewhere"):
            Lease.acquire(tmp_path, stale_after=30)
        make_foreign_and_old(tmp_path, seconds=35)
        with Lease.acquire(tmp_path, stale_after=30) as lease:
            assert lease.epoch == 2


def test_a_holder_that_was_replaced_finds_out_and_leaves_the_new_lease_alone(
    tmp_path: Path,
) -> None:
    old = Lease.acquire(tmp_path, stale_after=0.05)
    path = tmp_path / LEASE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": None}))  # was given up
    with Lease.acquire(tmp_path) as new:
        with pytest.raises(LeaseLost, match=r"epoch 1\) is now held by process .*epoch 2"):
            old.check()
        old._thread.join(timeout=120)
        assert not old._thread.is_alive()
        old.release()
        new.check()
    state = read_lease(tmp_path)
    assert state is not None
    assert state.epoch == 2


def test_a_released_lease_does_not_check(tmp_path: Path) -> None:
    lease = Lease.acquire(tmp_path)
    lease.release()
    lease.release()
    with pytest.raises(LeaseLost, match="nobody"):
        lease.check()


def test_heartbeats_arrive(tmp_path: Path) -> None:
    with Lease.acquire(tmp_path, stale_after=0.05):
        first = read_lease(tmp_path)
        assert first is not None
        deadline = time.monotonic() + 60
        while (now := read_lease(tmp_path)) == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert now is not None
        assert now.heartbeat > first.heartbeat


def test_a_damaged_lease_never_lets_the_epoch_fall(tmp_path: Path) -> None:
    with Lease.acquire(tmp_path):
        pass
    (tmp_path / LEASE_NAME).write_text("{")
    with Lease.acquire(tmp_path) as lease:
        assert lease.epoch > 1_000_000
        assert lease.taken_over


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot take the lease of"):
        Lease.acquire(tmp_path / "file" / "study")


# ---- folders that are copied or moved --------------------------------------------------------


def test_a_copy_of_a_running_study_is_not_in_use(tmp_path: Path) -> None:
    """It has the lease of the original, whose holder lives, but writes elsewhere."""
    original, copy = tmp_path / "runs" / "digits", tmp_path / "copied" / "digits"
    with holder(original) as process:
        shutil.copytree(original, copy)
        with Lease.acquire(copy) as lease:
            assert (lease.epoch, lease.taken_over) == (2, True)
            with pytest.raises(StudyInUse, match=f"process {process.pid} "):
                Lease.acquire(original)
        assert sorted(path.name for path in copy.iterdir()) == ["lease.json", "lease.lock"]
        assert sorted(path.name for path in original.iterdir()) == ["lease.json", "lease.lock"]


def test_the_copy_of_a_copy_is_not_in_use_either(tmp_path: Path) -> None:
    original, copy, second = (tmp_path / name for name in ("one", "two", "three"))
    with holder(original):
        shutil.copytree(original, copy)
        shutil.copytree(copy, second)
        with Lease.acquire(copy), Lease.acquire(second):
            pass


def test_a_moved_folder_is_still_in_use(tmp_path: Path) -> None:
    with holder(tmp_path / "one") as process:
        (tmp_path / "one").rename(tmp_path / "two")
        with pytest.raises(StudyInUse, match=f"process {process.pid} "):
            Lease.acquire(tmp_path / "two")


def test_a_folder_reached_by_another_way_is_no_copy(tmp_path: Path) -> None:
    """Through a link; or where neither path nor inode agree, as with two mounts of a network folder."""
    original, other = tmp_path / "one", tmp_path / "two"
    with holder(original) as process:
        other.symlink_to(original)
        with pytest.raises(StudyInUse, match=f"process {process.pid} "):
            Lease.acquire(other)
        path = original / LEASE_NAME
        as_elsewhere = {"path": str(other), "inode": "0 0"}
        path.write_text(json.dumps(json.loads(path.read_text()) | as_elsewhere))
        other.unlink()
        (tmp_path / "three").symlink_to(original)
        os.rename(tmp_path / "three", other)
        with pytest.raises(StudyInUse, match=f"process {process.pid} "):
            Lease.acquire(original)


def test_a_folder_whose_original_is_gone_is_taken_once_it_is_silent(tmp_path: Path) -> None:
    """Moved to another file system under its driver: that one finds no lease and ends."""
    original, moved = tmp_path / "one", tmp_path / "two"
    with holder(original):
        shutil.copytree(original, moved)
        shutil.rmtree(original)
        with pytest.raises(StudyInUse):
            Lease.acquire(moved)
        past = time.time() - 31
        os.utime(moved / LEASE_NAME, (past, past))
        with Lease.acquire(moved) as lease:
            assert lease.taken_over


def test_a_lease_of_an_earlier_version_knows_no_folder(tmp_path: Path) -> None:
    with holder(tmp_path / "one"):
        path = tmp_path / "one" / LEASE_NAME
        data = json.loads(path.read_text())
        del data["path"], data["inode"]
        path.write_text(json.dumps(data))
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        for name in ("one", "two"):  # as that version did
            with pytest.raises(StudyInUse):
                Lease.acquire(tmp_path / name)


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        path = tmp_path / LEASE_NAME
        path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))
        with pytest.raises(StudyInUse, match=f"process {process.pid} "):
            Lease.acquire(tmp_path)


# ---- clocks that jump, processes that sleep, locks of the dead --------------------------------


def set_heartbeat(folder: Path, seconds: float) -> None:
    """As if the clock of the file system had been set since: a heartbeat of `seconds` ago."""
    moved = time.time() - seconds
    os.utime(folder / LEASE_NAME, (moved, moved))


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_no_jump_of_the_clock_steals_a_lease_on_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    with holder(tmp_path) as process:
        set_heartbeat(tmp_path, jump)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        with pytest.raises(StudyInUse, match=f"process {process.pid} "):
            Lease.acquire(tmp_path, stale_after=0.5)


def test_a_clock_that_was_set_back_keeps_no_lease_for_ever(tmp_path: Path) -> None:
    """The dead holder's heartbeat lies a day ahead; that it is silent is seen without the clock."""
    with holder(tmp_path):
        make_foreign_and_old(tmp_path, seconds=-86_400.0)
    with Lease.acquire(tmp_path, stale_after=0.3) as lease:
        assert (lease.epoch, lease.taken_over) == (2, True)


def test_a_live_holder_elsewhere_is_heard_though_the_clock_was_set_back(tmp_path: Path) -> None:
    with holder(tmp_path):
        make_foreign_and_old(tmp_path, seconds=-86_400.0)
        beats = threading.Event()

        def beat() -> None:
            while not beats.wait(0.05):
                set_heartbeat(tmp_path, 0.0)

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            with pytest.raises(StudyInUse, match="on host elsewhere"):
                Lease.acquire(tmp_path, stale_after=60.0)
        finally:
            beats.set()
            thread.join()
    state = read_lease(tmp_path)
    assert state is not None
    assert state.epoch == 1


def test_a_suspended_holder_is_named_with_what_to_do(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(StudyInUse, match=f"kill -CONT {process.pid}"):
            Lease.acquire(tmp_path, stale_after=0.1)
        process.send_signal(signal.SIGCONT)


def test_a_lock_on_the_journal_left_by_a_dead_driver_of_another_host(tmp_path: Path) -> None:
    """Optuna waits 30 s for such a lock; whoever took the lease over knows that nobody holds it."""
    journal = tmp_path / JOURNAL_NAME
    with holder(tmp_path):
        make_foreign_and_old(tmp_path, seconds=60)
    os.symlink(journal, f"{journal}.lock")
    with Lease.acquire(tmp_path, stale_after=30) as lease:
        assert lease.taken_over
        storage = open_storage(journal, lease.check, recover=lease.taken_over)
        assert not Path(f"{journal}.lock").is_symlink()
        run_all(make_ledger(tmp_path, storage=storage, fence=lease.check))
    assert not Path(f"{journal}.lock").is_symlink()


def test_a_driver_woken_in_the_middle_of_a_write_says_that_it_lost_the_lease(
    tmp_path: Path,
) -> None:
    """Its lock on the journal is gone, too: that must not hide why it ends."""
    journal = tmp_path / JOURNAL_NAME
    old = Lease.acquire(tmp_path)
    path = tmp_path / LEASE_NAME
    taken = False

    def suspended_here() -> None:
        nonlocal taken
        if Path(f"{journal}.lock").is_symlink() and not taken:
            taken = True
            path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": None}))
            with Lease.acquire(tmp_path) as new:
                open_storage(journal, new.check, recover=True)
        old.check()

    storage = open_storage(journal, suspended_here)
    with pytest.raises(LeaseLost, match="epoch 2"):
        make_ledger(tmp_path, storage=storage, fence=allow)
    assert taken
    assert journal.read_bytes() == b""
    old.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Some network file systems have no flock; without it two drivers could both hold the lease."""

    def refuse(file: object, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="on a file system that supports locks"):
        Lease.acquire(tmp_path)
    assert read_lease(tmp_path) is None


def test_locks_that_fail_later_stop_neither_the_driver_nor_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server that restarts: heartbeats are missed, and the next driver takes over."""
    lease = Lease.acquire(tmp_path, stale_after=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "io")))
        lease.check()
        lease.release()
    state = read_lease(tmp_path)
    assert state is not None
    assert state.pid == os.getpid()
    with pytest.raises(StudyInUse):  # on this machine the process is seen to live
        Lease.acquire(tmp_path)
    make_foreign_and_old(tmp_path, seconds=31)
    with Lease.acquire(tmp_path) as taken:
        assert taken.taken_over


@pytest.mark.parametrize("kind", ["folder", "database"])
def test_an_outage_is_told_once_however_many_heartbeats_it_costs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """A server that is down for a night would fill the log with a line every six seconds."""
    away, missed, beats = threading.Event(), list[float](), list[float]()

    def beat(*_: object, **__: object) -> int:
        (missed if away.is_set() else beats).append(time.monotonic())
        if away.is_set():
            raise OSError(errno.EIO, "away")
        return 1

    def seen(times: list[float]) -> None:
        count, deadline = len(times), time.monotonic() + 60
        while len(times) < count + 3 and time.monotonic() < deadline:
            time.sleep(0.01)

    lease: Lease | DatabaseLease
    if kind == "folder":
        lease = Lease.acquire(tmp_path, stale_after=0.05)
        monkeypatch.setattr(fcntl, "flock", beat)
    else:
        lease = DatabaseLease("postgresql://me@127.0.0.1:1/none", "s", 0.05)
        monkeypatch.setattr(lease, "_execute", beat)
        lease._thread.start()
    for _ in range(2):
        away.set()
        seen(missed)
        away.clear()
        seen(beats)
    told = [r for r in caplog.records if "no heartbeat" in r.message and r.levelname == "WARNING"]
    lease.release()
    assert len(missed) >= 6
    assert len(told) == 2


def test_hosts_whose_clocks_differ_agree_on_the_age(tmp_path: Path) -> None:
    """The age of a heartbeat is measured by the file system's clock, whatever the file says."""
    with holder(tmp_path):
        make_foreign_and_old(tmp_path, seconds=5)
        path = tmp_path / LEASE_NAME
        changed = path.stat()
        ahead = json.loads(path.read_text()) | {"heartbeat": time.time() - 3600}
        path.write_text(json.dumps(ahead))
        os.utime(path, (changed.st_mtime, changed.st_mtime))
        with pytest.raises(StudyInUse, match="on host elsewhere"):
            Lease.acquire(tmp_path, stale_after=30)


@pytest.mark.parametrize(
    "place", ["trials/00003", "confirm/trials/00003", "trials/00003/repeats/1"]
)
def test_a_worker_of_an_earlier_driver_is_fenced_wherever_it_writes(
    tmp_path: Path, place: str
) -> None:
    folder = tmp_path / "study" / place
    folder.mkdir(parents=True)
    check_epoch(folder, 0)  # no study, no lease
    for epoch in (1, 2):
        with Lease.acquire(tmp_path / "study"):
            check_epoch(folder, epoch)
    with pytest.raises(LeaseLost, match="epoch 2, but this job has 1"):
        check_epoch(folder, 1)
    (tmp_path / "study" / LEASE_NAME).write_text("{")
    with pytest.raises(LeaseLost, match="unknown"):
        check_epoch(folder, 2)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"3", b"\x00\xff\xfe", b'{"x": 1}', b"[" * 10_000, b"\0" * 2**17),
        b'{"host": 1, "place": "", "pid": 1, "process_start": 1, "epoch": 1, "heartbeat": 1}',
        b'{"host": "", "place": "", "pid": "x", "process_start": 1, "epoch": 1, "heartbeat": 1}',
        b'{"host": "", "place": "", "pid": 1, "process_start": 1, "epoch": 1e9, "heartbeat": 1}',
    ],
)
def test_an_unreadable_lease_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LEASE_NAME).write_bytes(content)
    assert read_lease(tmp_path) is None
    with Lease.acquire(tmp_path) as lease:
        assert read_lease(tmp_path) is not None
        lease.check()
