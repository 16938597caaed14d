"""The lease of a study: only its holder writes, and a driver that lost it notices before each write.

`lease.json` names the holder and an epoch that grows with every acquisition. Jobs carry the epoch, so
that the workers of an earlier driver stop writing.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path

from meanflow_tune.files import write_atomic
from meanflow_tune.search.errors import LeaseLost, StorageError, StudyInUse

LEASE_NAME = "lease.json"
LOCK_NAME = "lease.lock"
LOCK_SECONDS = 10.0
CLOCK_STEPS = 2.0  # seconds by which times of one file system may disagree

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseState:
    """The contents of lease.json. pid: None once the holder has released it.

    place: boot and process namespace of the holder, within which its pid is unique; process_start:
    clock ticks since boot, which distinguishes a reused pid; heartbeat: unix seconds.
    """

    host: str
    place: str
    pid: int | None
    process_start: int | None
    epoch: int
    heartbeat: float


_HOLDER = attrgetter("epoch", "host", "place", "pid")


def read_lease(folder: Path) -> LeaseState | None:
    """The lease of a study folder; None where there is none, or where it is unreadable."""
    try:
        return LeaseState(**json.loads((folder / LEASE_NAME).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):  # ValueError: no JSON, or no text
        return None


def check_epoch(folder: Path, epoch: int) -> None:
    """Raise LeaseLost unless `epoch` is still that of the study that `folder` is in.

    For workers, which hold no lease: a job carries the epoch of the driver that handed it out.
    """
    study = next((parent for parent in folder.parents if (parent / LEASE_NAME).is_file()), None)
    if study is None:
        return
    now = read_lease(study)
    if now is None or now.epoch > epoch:
        raise LeaseLost(
            f"the lease of {study} has epoch {now.epoch if now else 'unknown'}, but this job has"
            f" {epoch}: another driver has taken the study over"
        )


class _FutureHeartbeat(StudyInUse):
    """The last heartbeat is in the future: a clock was set back, so its age is unknown."""


class Lease:
    """A held lease; a context manager that releases it. Made by `Lease.acquire`."""

    def __init__(
        self, folder: Path, state: LeaseState, taken_over: bool, stale_after: float
    ) -> None:
        self.folder = folder
        self.epoch = state.epoch
        self.taken_over = taken_over
        self._state = state
        self._stop = threading.Event()
        self._interval = stale_after / 5
        self._thread = threading.Thread(target=self._beat, name="lease heartbeat", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, folder: Path | str, stale_after: float = 30.0, after: int = 0) -> "Lease":
        """Take the lease of a folder, also from a dead holder, at an epoch above `after`.

        A dead process on this machine is replaced at once; a holder elsewhere after stale_after
        seconds without a heartbeat, measured by waiting where a clock was set back. taken_over: the
        last holder did not release it.

        Raises:
            StudyInUse: a live driver holds it.
            StorageError: the folder cannot be written or locked.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with _locked(folder):
                    state, taken_over = _replace_holder(folder, stale_after, after)
            except _FutureHeartbeat:
                heard = _watch(folder, stale_after)
                with _locked(folder):
                    state, taken_over = _replace_holder(folder, stale_after, after, heard)
        except OSError as error:
            raise StorageError(
                f"cannot take the lease of {folder}: {error}; the folder must be writable, on a"
                " file system that supports locks"
            ) from error
        return cls(folder, state, taken_over, stale_after)

    def check(self) -> None:
        """Raise LeaseLost unless this driver still holds the lease; one small read."""
        if not self._is_own(now := read_lease(self.folder)):
            holder = f"process {now.pid} on {now.host}" if now and now.pid else "nobody"
            raise LeaseLost(
                f"the lease of {self.folder} (epoch {self.epoch}) is now held by {holder}"
                f" (epoch {now.epoch if now else 'unknown'}); this driver must stop, and"
                " nothing that it still does is kept"
            )

    def release(self) -> None:
        """Release the lease; its epoch stays in the file. Safe to call twice."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        try:
            with _locked(self.folder):
                if self._is_own(read_lease(self.folder)):
                    _write(self.folder, replace(self._state, pid=None, heartbeat=time.time()))
        except (OSError, StudyInUse) as error:
            # The next driver sees a dead process and takes over the lease; a deleted study has none.
            if self.folder.exists():
                _log.warning("could not release the lease of %s: %s", self.folder, error)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_own(self, now: LeaseState | None) -> bool:
        return now is not None and _HOLDER(now) == _HOLDER(self._state)

    def _beat(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                with _locked(self.folder):
                    if not self._is_own(read_lease(self.folder)):
                        return
                    try:
                        _write(self.folder, replace(self._state, heartbeat=time.time()))
                    except OSError:  # a full disk still takes a new modification time
                        os.utime(self.folder / LEASE_NAME)
            except (OSError, StudyInUse) as error:
                _log.warning("no heartbeat for the lease of %s: %s", self.folder, error)


def is_held(folder: Path, stale_after: float = 30.0) -> bool:
    """Whether a driver that lives, as far as can be told from here, holds the lease of a folder."""
    held = read_lease(folder)
    if held is None or held.pid is None:
        return False
    try:
        _refuse_if_alive(folder, held, stale_after)
    except StudyInUse:
        return True
    return False


def has_died(held: LeaseState) -> bool:
    """Whether the holder of a lease was a process of this host that is gone; reads only.

    False where that cannot be told from here: on another host its heartbeat has to tell.
    """
    return _is_here(held) and not _is_alive(held)


def _is_here(held: LeaseState) -> bool:
    return held.host == socket.gethostname() and held.place == pid_namespace()


def _is_alive(held: LeaseState) -> bool:
    """Of a holder in this process namespace."""
    pid = held.pid
    return pid is not None and held.process_start == process_start(pid) and _exists(pid)


def lease_age(folder: Path) -> float:
    """Seconds since the last heartbeat, by the clock of the file system, since hosts' clocks differ.

    Negative where that clock was set back.
    """
    os.utime(folder / LOCK_NAME)
    return (folder / LOCK_NAME).stat().st_mtime - (folder / LEASE_NAME).stat().st_mtime


def _watch(folder: Path, seconds: float) -> int | None:
    """Wait for a heartbeat by the monotonic clock; the last one (mtime, ns) if none came."""
    last = (folder / LEASE_NAME).stat().st_mtime_ns
    _log.warning("%s is from the future; watching it for %.0f s", folder / LEASE_NAME, seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(0.1, seconds / 10))
        if (folder / LEASE_NAME).stat().st_mtime_ns != last:
            return None
    return last


def _replace_holder(
    folder: Path, stale_after: float, after: int = 0, silent: int | None = None
) -> tuple[LeaseState, bool]:
    """Write this process into lease.json; True where the last holder had not released it.

    silent: the heartbeat (mtime, ns) after which `_watch` saw no other.
    """
    held = read_lease(folder)
    damaged = held is None and (folder / LEASE_NAME).exists()
    left_behind = held is not None and held.pid is not None
    watched = silent is not None and silent == (folder / LEASE_NAME).stat().st_mtime_ns
    if held is not None and left_behind and not watched:
        _refuse_if_alive(folder, held, stale_after)
    # A damaged file hides the last epoch; unix seconds are above any count of drivers.
    last = int(time.time()) if damaged else max(after, held.epoch if held is not None else 0)
    state = LeaseState(
        host=socket.gethostname(),
        place=pid_namespace(),
        pid=os.getpid(),
        process_start=process_start(os.getpid()),
        epoch=last + 1,
        heartbeat=time.time(),
    )
    _write(folder, state)
    return state, damaged or left_behind


def _refuse_if_alive(folder: Path, held: LeaseState, stale_after: float) -> None:
    age = lease_age(folder)
    assert held.pid is not None
    kind: type[StudyInUse] = StudyInUse
    advice = "stop that process, wait for it, or give the search another study name"
    if _is_here(held):
        alive = _is_alive(held)
        if alive and _process_fields(held.pid)[:1] in (["T"], ["t"]):
            advice = f"it is suspended: `kill -CONT {held.pid}` continues it, `kill -9` ends it"
    else:
        alive = age < stale_after
        if age < -CLOCK_STEPS:
            kind = _FutureHeartbeat
    if alive:
        raise kind(
            f"study folder {folder} is in use by process {held.pid} on host {held.host}"
            f" (last heartbeat {max(age, 0.0):.0f} s ago); {advice}"
        )


def _write(folder: Path, state: LeaseState) -> None:
    write_atomic(folder / LEASE_NAME, json.dumps(asdict(state), indent=1) + "\n")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The lock around reading and replacing lease.json; the kernel frees it when a process dies."""
    with open(folder / LOCK_NAME, "ab") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StudyInUse(
                        f"{folder / LOCK_NAME} has been locked by another process for"
                        f" {LOCK_SECONDS:.0f} s; is a driver of this study suspended?"
                    ) from None
                time.sleep(0.01)
        yield


def pid_namespace() -> str:
    """Where pids are unique: one boot of one kernel, one process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def process_start(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; None where it is dead, or without /proc."""
    fields = _process_fields(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def _process_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; empty where there is no such process, or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
