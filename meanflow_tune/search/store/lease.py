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
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeAlias

from meanflow_tune.files import write_atomic
from meanflow_tune.search.errors import Holder, LeaseLost, StorageError, StudyInUse
from meanflow_tune.search.store.holder import (
    HOLDER,
    LEASE_NAME,
    LeaseState,
    identity,
    is_alive,
    is_copy,
    is_here,
    pid_namespace,
    process_fields,
    process_start,
    read_lease,
)

LOCK_NAME = "lease.lock"
LOCK_SECONDS = 10.0
CLOCK_STEPS = 2.0  # seconds by which times of one file system may disagree

Beat: TypeAlias = tuple[object, ...]

_log = logging.getLogger(__name__)


def check_epoch(folder: Path, epoch: int) -> None:
    """Raise LeaseLost unless `epoch` is still that of the study that `folder` is in.

    For workers, which hold no lease: a job carries the epoch of the driver that handed it out.
    """
    study = next((parent for parent in folder.parents if (parent / LEASE_NAME).exists()), None)
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
    def acquire(
        cls,
        folder: Path | str,
        stale_after: float = 30.0,
        after: int = 0,
        silent: Collection[Beat] = (),
    ) -> "Lease":
        """Take the lease of a folder, also from a dead holder, at an epoch above `after`.

        A dead process on this machine is replaced at once, and so is the holder of the folder that this
        one is a copy of; a holder elsewhere after stale_after seconds without a heartbeat, measured by
        waiting where a clock was set back, or after one of the heartbeats `silent`, since which the
        caller has waited itself. taken_over: the last holder did not release it.

        Raises:
            StudyInUse: a live driver holds it.
            StorageError: the folder cannot be written or locked.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with _locked(folder):
                    state, taken_over = _replace_holder(folder, stale_after, after, silent)
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
        return now is not None and HOLDER(now) == HOLDER(self._state)

    def _beat(self) -> None:
        told = False  # once for all heartbeats that fail in a row
        while not self._stop.wait(self._interval):
            try:
                with _locked(self.folder):
                    if not self._is_own(read_lease(self.folder)):
                        return
                    try:
                        _write(self.folder, replace(self._state, heartbeat=time.time()))
                    except OSError:  # a full disk still takes a new modification time
                        os.utime(self.folder / LEASE_NAME)
                told = False
            except (OSError, StudyInUse) as error:
                level, told = logging.DEBUG if told else logging.WARNING, True
                _log.log(level, "no heartbeat for the lease of %s: %s", self.folder, error)


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


def lease_age(folder: Path) -> float:
    """Seconds since the last heartbeat, by the clock of the file system, since hosts' clocks differ.

    Negative where that clock was set back.
    """
    os.utime(folder / LOCK_NAME)
    return (folder / LOCK_NAME).stat().st_mtime - (folder / LEASE_NAME).stat().st_mtime


def _watch(folder: Path, seconds: float) -> list[Beat]:
    """Wait for a heartbeat by the monotonic clock; the last one if none came."""
    last = _beat_of(folder)
    _log.warning("%s is from the future; watching it for %.0f s", folder / LEASE_NAME, seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(0.1, seconds / 10))
        if _beat_of(folder) != last:
            return []
    return [last]


def _beat_of(folder: Path) -> Beat:
    """The last heartbeat in a folder: when its lease was written."""
    return ("folder", (folder / LEASE_NAME).stat().st_mtime_ns)


def holder_elsewhere(folder: Path, stale_after: float) -> Holder | None:
    """Who holds a folder's lease, however silent, where only heartbeats show whether it is dead."""
    held = read_lease(folder)
    if held is None or held.pid is None:
        return None
    if is_here(held) and (not is_alive(held) or is_copy(folder, held) is not None):
        return None
    return _holder(folder, held, stale_after)


def _holder(folder: Path, held: LeaseState, stale_after: float) -> Holder:
    age = lease_age(folder)
    assert held.pid is not None
    return Holder(held.host, held.pid, age, _beat_of(folder), stale_after - age)


def _replace_holder(
    folder: Path, stale_after: float, after: int = 0, silent: Collection[Beat] = ()
) -> tuple[LeaseState, bool]:
    """Write this process into lease.json; True where the last holder had not released it."""
    held = read_lease(folder)
    damaged = held is None and (folder / LEASE_NAME).exists()
    left_behind = held is not None and held.pid is not None
    if held is not None and left_behind:
        _refuse_if_alive(folder, held, stale_after, silent)
    # A damaged file hides the last epoch; unix seconds are above any count of drivers.
    last = int(time.time()) if damaged else max(after, held.epoch if held is not None else 0)
    state = LeaseState(
        host=socket.gethostname(),
        place=pid_namespace(),
        pid=os.getpid(),
        process_start=process_start(os.getpid()),
        epoch=last + 1,
        heartbeat=time.time(),
        **identity(folder),
    )
    _write(folder, state)
    return state, damaged or left_behind


def _refuse_if_alive(
    folder: Path, held: LeaseState, stale_after: float, silent: Collection[Beat] = ()
) -> None:
    holder = _holder(folder, held, stale_after)
    advice = "stop that process, wait for it, or give the search another study name"
    if is_here(held):
        if not is_alive(held):
            return
        copied = is_copy(folder, held)
        if copied:
            _log.info("%s is a copy of %s, which a driver uses", folder, held.path)
            return
        if copied is False:
            if process_fields(holder.pid)[:1] in (["T"], ["t"]):
                advice = f"it is suspended: `kill -CONT {held.pid}` continues it, `kill -9` ends it"
            raise StudyInUse(_in_use(folder, holder, advice))
    if holder.age >= stale_after or holder.beat in silent:
        return
    kind = _FutureHeartbeat if holder.age < -CLOCK_STEPS else StudyInUse
    raise kind(_in_use(folder, holder, advice), holder)


def _in_use(folder: Path, holder: Holder, advice: str) -> str:
    return (
        f"study folder {folder} is in use by process {holder.pid} on host {holder.host}"
        f" (last heartbeat {max(holder.age, 0.0):.0f} s ago); {advice}"
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
