"""Opening a study's storage: an Optuna journal file beside the trials, or a database URL."""

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from meanflow_tune.files import Writing, at_once, sync_folder
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.fenced import FencedStorage

JOURNAL_NAME = "study.journal"


def is_url(location: str | Path) -> bool:
    """Whether a storage location is a database URL rather than a path of a journal."""
    return isinstance(location, str) and "://" in location


def shown_url(url: str) -> str:
    """A URL without the password in it, for messages and files."""
    return re.sub(r"://[^@/]*@", "://***@", url)


class FencedJournal(JournalFileBackend):
    """A journal whose every single write is fenced, and whose failed writes leave no torn line.

    fence raises when the lease is lost; None opens the journal for reading only. writing: how a write
    is made, see `files.Patience`.
    """

    def __init__(
        self, path: Path, fence: Callable[[], None] | None, writing: Writing = at_once
    ) -> None:
        # The lock that other Optuna programs use too; 30 s is what they wait for a dead holder.
        self._journal_lock = JournalFileSymlinkLock(str(path), grace_period=30)
        super().__init__(str(path), lock_obj=self._journal_lock)
        self._path = path
        self._fence = fence
        self._writing = writing

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._fence is None:
            raise StorageError(f"{self._path} was opened for reading only")
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._writing(lambda: self._write(lines), self._path.parent)

    def _write(self, lines: bytes) -> None:
        assert self._fence is not None
        self._journal_lock.acquire()
        try:
            self._fence()
            _append(self._path, lines)
        finally:
            # Whoever took over from a suspended driver has removed the lock that it held.
            with suppress(RuntimeError):
                self._journal_lock.release()


def open_storage(
    location: str | Path,
    fence: Callable[[], None] | None = None,
    recover: bool = False,
    writing: Writing = at_once,
) -> BaseStorage:
    """Open the journal at a path, or the database at a URL.

    fence: called before every write; None opens it for reading only, which never touches a
    journal's file. With a fence the caller holds the study's lease, so a torn last line is cut
    off (a copy of the file stays beside it). recover: the lease was taken over from a dead driver,
    whose lock on the journal is then removed rather than waited for. writing: how a write to a journal
    is made; `files.Patience` waits while the disk is full.

    Raises:
        StorageError: the location cannot be opened, or lines inside the journal are damaged.
    """
    if is_url(location):
        try:
            inner = get_storage(str(location))
        except Exception as error:  # any driver of any database, each with its own errors
            raise StorageError(
                f"cannot open the study storage {shown_url(str(location))}: {type(error).__name__};"
                " check that the database is up and that its driver is installed"
            ) from error
        return FencedStorage(inner, fence, shown_url(str(location)))
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
        return JournalStorage(FencedJournal(path, fence, writing))
    except (OSError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot open the study storage {path}: {error}") from error


def repair_journal(path: Path) -> Path | None:
    """Cut a torn tail off a journal; return the copy kept beside it, None if nothing was torn.

    A write that a crash tore was never acknowledged, and is repeated by whoever goes on.

    Raises:
        StorageError: a damaged line has readable lines after it, so cutting would lose them.
    """
    if not path.exists():
        return None
    good = 0
    torn_line: int | None = None
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not _is_record(line):
                torn_line = torn_line or number
            elif torn_line is not None:
                raise StorageError(
                    f"line {torn_line} of {path} is damaged and readable lines follow it;"
                    " restore the file from a copy, or remove that line"
                )
            else:
                good += len(line)
    if torn_line is None:
        return None
    copy = _free_name(path)
    shutil.copy2(path, copy)
    with open(path, "r+b") as file:
        file.truncate(good)
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return copy


def _append(path: Path, data: bytes) -> None:
    """Append data durably or not at all."""
    # Unbuffered: a buffer that a full disk refused is written again when its file is closed, after the
    # part that did fit has been cut off.
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except BaseException as error:
            os.truncate(path, size)
            if isinstance(error, OSError):
                raise StorageError(
                    f"cannot write {path}: {error}; free some space there, then run the same"
                    " command again"
                ) from error
            raise


def _is_record(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record


def _free_name(path: Path) -> Path:
    number = 1
    while (copy := path.with_name(f"{path.name}.torn-{number}")).exists():
        number += 1
    return copy
