"""Opening a study's storage: an Optuna journal in its folder, or a database URL."""

import gc
import io
import json
import os
import shutil
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import (
    JournalFileBackend,
    JournalFileOpenLock,
    JournalFileSymlinkLock,
)
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial

from meanflow_tune.files import (
    WritePolicy,
    sqlite_path,
    sync_folder,
    without_links,
    write_once,
)
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.store.database import DatabaseStorage, check_database
from meanflow_tune.search.store.proxy import FencedStorage
from meanflow_tune.urls import hide_password

# The type of a study's storage, for packages that do not import Optuna.
Storage: TypeAlias = BaseStorage

JOURNAL_NAME = "study.journal"
UNSYNCED_BYTES = 2**16  # of a journal, at most
TAIL_BYTES = 2**20  # at the end of a journal, searched first for its last whole line


def is_url(location: str | Path) -> bool:
    """Whether a storage location is a database URL rather than the path of a journal."""
    return isinstance(location, str) and "://" in location


def is_server(location: str | Path) -> bool:
    """Whether a storage location is a database on a server."""
    return is_url(location) and not str(location).startswith("sqlite")


class JournalLock(JournalFileSymlinkLock):
    """The lock that other Optuna programs use too: a symbolic link, or a file where there are no links.

    Each excludes the other, and they are released in the same way.
    """

    def __init__(self, path: Path) -> None:
        # 30 s is what other programs wait for a dead holder.
        super().__init__(str(path), grace_period=30)
        self._file = JournalFileOpenLock(str(path), grace_period=30)
        self._links = True

    def acquire(self) -> bool:
        if self._links:
            try:
                return super().acquire()
            except OSError as error:
                if not without_links(error):
                    raise
                self._links = False
        return self._file.acquire()


class FencedJournal(JournalFileBackend):
    """A journal with a fence before every write, and without torn lines after failed writes.

    fence: raises when the lease is lost; None opens the journal for reading only. write_policy: how a
    write is made, see `files.WaitForSpace`.
    """

    def __init__(
        self, path: Path, fence: Callable[[], None] | None, write_policy: WritePolicy = write_once
    ) -> None:
        self._journal_lock = JournalLock(path)
        super().__init__(str(path), lock_obj=self._journal_lock)
        self._path = path
        self._fence = fence
        self._write_policy = write_policy
        self._read = (0, 0)  # number of lines read, and the offset of the next one
        self._unsynced = b""  # at the end of the file
        self._unwritten = b""  # read by the storage, then cut off the file when a sync failed
        self._append_lock = threading.Lock()
        self._thread = threading.local()

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Whole lines, starting with number log_number_from (from 0).

        Raises:
            StorageError: a damaged line is followed by others, so that no crash can have torn it.
        """
        number, start = self._read if log_number_from >= self._read[0] else (0, 0)
        with open(self._path, "rb") as file:
            file.seek(start)
            damaged: int | None = None
            for line in file:
                record = parse_line(line)
                if damaged is not None:
                    raise StorageError(
                        f"line {damaged} of {self._path} is damaged and readable lines follow it;"
                        " restore the file from a copy, or remove that line"
                    )
                if record is None:
                    damaged = number + 1
                    continue
                number, start = number + 1, start + len(line)
                self._read = number, start
                if number > log_number_from:
                    yield record

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._fence is None:
            raise StorageError(f"{self._path} was opened for reading only")
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._write_policy(lambda: self._write(lines), self._path.parent)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """One sync, at the end, for all lines that this thread appends in the block.

        The lines are in the file at once, so that a killed process loses none. A power cut may lose them,
        so nothing may depend on them before the end of the block.
        """
        if self._fence is None or getattr(self._thread, "deferred", False):
            yield
            return
        self._thread.deferred = True
        try:
            yield
        finally:
            self._thread.deferred = False
            if self._unsynced or self._unwritten:
                self._write_policy(lambda: self._write(b""), self._path.parent)

    def _write(self, lines: bytes) -> None:
        assert self._fence is not None
        self._journal_lock.acquire()
        try:
            self._fence()
            self._append(lines)
        finally:
            # A driver that took over from this one while it was suspended has removed the lock.
            with suppress(RuntimeError):
                self._journal_lock.release()

    def _append(self, data: bytes) -> None:
        """Append data durably or not at all; in a `batch`, the sync is left to its end."""
        # Unbuffered: a buffer that a full disk refused would be written again when the file is closed,
        # after the part that did fit has been cut off.
        with self._append_lock, open(self._path, "ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            whole = self._unwritten + data
            deferred = getattr(self._thread, "deferred", False)
            try:
                left = memoryview(whole)
                while left:
                    left = left[file.write(left) :]
                if deferred and len(self._unsynced) + len(whole) < UNSYNCED_BYTES:
                    self._unwritten, self._unsynced = b"", self._unsynced + whole
                    return
                os.fsync(file.fileno())
                self._unwritten = self._unsynced = b""
            except BaseException as error:
                # The storage has read these lines, so they are appended again before any others; they
                # stay where another program, such as the Optuna dashboard, has written behind them.
                cut = self._unsynced if self._ends_with(self._unsynced, size) else b""
                os.truncate(self._path, size - len(cut))
                self._unwritten, self._unsynced = cut + self._unwritten, b""
                if isinstance(error, OSError):
                    raise StorageError(
                        f"cannot write {self._path}: {error}; free some space there, then run the same"
                        " command again"
                    ) from error
                raise

    def _ends_with(self, tail: bytes, size: int) -> bool:
        """Whether the first `size` bytes of the file end with `tail`."""
        with open(self._path, "rb") as file:
            file.seek(max(0, size - len(tail)))
            return file.read(len(tail)) == tail


class StudyJournal(JournalStorage):
    """Optuna's storage over a FencedJournal, which knows the trials that each line of it changed."""

    def __init__(self, journal: FencedJournal) -> None:
        # id of a trial -> count of all changes at its last one; in the order of the changes.
        self._changes: dict[int, int] = {}
        self._counted = 0
        super().__init__(journal)
        self.batch = journal.batch

    def changed_trials(self, study_id: int, since: int) -> tuple[int, list[FrozenTrial]]:
        """A count of changes, and the trials of a study that changed since there were `since`, by number.

        Not copied, so do not change them. Reads the trials that changed and no others.
        """
        with self._thread_lock:
            self._sync_with_backend()
            replayed = self._replay_result
            found = []
            for trial_id, count in reversed(self._changes.items()):
                if count <= since:
                    break
                if replayed._trial_id_to_study_id.get(trial_id) == study_id:
                    found.append(replayed._trials[trial_id])
            return self._counted, sorted(found, key=lambda trial: trial.number)

    def _sync_with_backend(self) -> None:
        logs = self._backend.read_logs(self._replay_result.log_number_read)
        self._replay_result.apply_logs(self._noted(logs))

    def _noted(self, logs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The lines, each applied before the next is taken."""
        for log in logs:
            trial_id = log.get("trial_id")
            if log["op_code"] == JournalOperation.CREATE_TRIAL:
                trial_id = len(self._replay_result._trials)
            if trial_id is not None:
                self._counted += 1
                self._changes.pop(trial_id, None)
                self._changes[trial_id] = self._counted
            yield log


def open_storage(
    location: str | Path,
    fence: Callable[[], None] | None = None,
    recover: bool = False,
    write_policy: WritePolicy = write_once,
    commit_fence: Callable[[Any], None] | None = None,
) -> BaseStorage:
    """Open the journal at a path, or the database at a URL.

    fence: called before every write; None opens it for reading only, which never changes a journal's
    file. With a fence the caller holds the study's lease, so a torn last line is cut off (a copy of
    the file is kept next to it). recover: the lease was taken over from a dead driver, whose lock on
    the journal is removed instead of waited for. write_policy: how a write is made, and on a server a read
    too; `files.WaitForSpace` waits while the disk is full or the server is down. commit_fence: of a
    database on a server, see `DatabaseStorage`.

    Raises:
        StorageError: the location cannot be opened, or lines inside the journal are damaged.
    """
    if is_url(location):
        return _open_database(str(location), fence, write_policy, commit_fence)
    path = Path(location)
    try:
        if fence is None:
            if not path.exists():
                raise StorageError(f"there is no study at {path}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            if recover:
                Path(f"{path}.lock").unlink(missing_ok=True)
            repair_journal(path)
        with _collector_off():
            return StudyJournal(FencedJournal(path, fence, write_policy))
    except (OSError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot open the study storage {path}: {error}") from error


def _open_database(
    url: str,
    fence: Callable[[], None] | None,
    write_policy: WritePolicy,
    commit_fence: Callable[[Any], None] | None,
) -> BaseStorage:
    if is_server(url):
        check_database(url)
        return DatabaseStorage(url, fence, write_policy, commit_fence)
    try:
        inner = get_storage(url)
    except Exception as error:  # any driver, each with its own errors
        raise StorageError(
            f"cannot open the study storage {hide_password(url)}: {type(error).__name__};"
            " check that the database is up and that its driver is installed"
        ) from error
    return FencedStorage(inner, fence, hide_password(url), sqlite_path(url), write_policy)


@contextmanager
def _collector_off() -> Iterator[None]:
    """No garbage collection: 10,000 trials that are read contain none, and it takes 1 s."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def repair_journal(path: Path) -> Path | None:
    """Cut a torn tail off a journal; return the copy kept next to it, None if nothing was torn.

    A write that a crash tore was never acknowledged, and the next driver repeats it. Only the end is
    checked; damage before a whole line is reported, and not cut, when the lines are read.
    """
    if not path.exists():
        return None
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        good = _before_hole(file, _whole_end(file, size))
    if good == size:
        return None
    copy = free_name(path, "torn")
    shutil.copyfile(path, copy)
    with open(path, "r+b") as file:
        file.truncate(good)
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return copy


def _whole_end(file: BinaryIO, size: int) -> int:
    """Where the last whole line of a file of `size` bytes ends; 0 where it has none."""
    block = TAIL_BYTES
    while True:
        start = max(0, size - block)
        file.seek(start)
        lines = list(io.BytesIO(file.read(size - start)))
        end = size
        for line in reversed(lines if start == 0 else lines[1:]):
            if parse_line(line) is not None:
                return end
            end -= len(line)
        if start == 0:
            return 0
        block *= 4


def _before_hole(file: BinaryIO, end: int) -> int:
    """`end`, or the start of a line that a power cut left as zeros (later lines may have survived).

    Only bytes that were not synced can be lost in this way; zeros before them are other damage.
    """
    start = max(0, end - UNSYNCED_BYTES)
    file.seek(start)
    tail = file.read(end - start)
    hole = tail.find(b"\0")
    return end if hole < 0 else start + tail.rfind(b"\n", 0, hole) + 1


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The operation on a line of a journal; None where the line is torn or holds none."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "op_code" in record else None


def free_name(path: Path, suffix: str) -> Path:
    """The first of PATH.SUFFIX-1, -2 and so on that does not exist."""
    number = 1
    while (free := path.with_name(f"{path.name}.{suffix}-{number}")).exists():
        number += 1
    return free
