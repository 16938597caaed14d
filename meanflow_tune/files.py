"""Atomic files, and writes that wait while the disk is full."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SPACE = os.strerror(errno.ENOSPC)
_SQLITE_FULL = "database or disk is full"


def write_atomic(path: Path, content: str | Callable[[Path], object]) -> None:
    """Write text, or what a function writes to a path, so that a crash leaves the old file or the new one.

    Writes a temporary file next to `path`, syncs it and renames it; removes it when anything fails. Makes
    the folder. Raises OSError, with ENOSPC also where a library hides a full disk in its own error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        else:
            content(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if is_full(error) and not isinstance(error, OSError):
            raise OSError(errno.ENOSPC, _NO_SPACE, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make new and renamed files in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: BaseException) -> bool:
    """Whether a write failed because the disk, or a quota, is full.

    torch, safetensors and SQLite raise their own errors, which have the OSError as their cause or its
    text in their message.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        if any(text in str(seen) for text in (_NO_SPACE, _SQLITE_FULL)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def free_space(folder: Path) -> str:
    """The free space on the file system of a folder, which may not exist yet, in words."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:,.1f} MB free"
    except OSError as error:
        return f"free space unknown: {error.strerror}"


def no_space(folder: Path | str, free: str) -> str:
    """The message when a search starts to wait. free: from `free_space` on the host of the disk."""
    return (
        f"no space left for {folder} ({free}): the search continues once some is freed; nothing is "
        "lost, and Ctrl-C stops it"
    )


def space_again(folder: Path | str) -> str:
    """The message when the wait is over."""
    return f"there is space for {folder} again: the search continues"


class WritePolicy(Protocol):
    """How a write below `folder` is made: once, or repeated while the disk is full."""

    def __call__(self, write: Callable[[], T], folder: Path) -> T: ...


def write_once(write: Callable[[], T], folder: Path) -> T:
    """Write once; any OSError propagates."""
    return write()


class WaitForSpace:
    """Repeats a write while the disk is full; shared by the threads of a driver.

    say: gets one line when the first thread, or worker, starts to wait and one when the last one ends.
    stop: asked before each wait; True gives up, which raises the write's own error.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        stop: Callable[[], bool],
        pause: float = 2.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._say, self._stop, self._pause, self._sleep = say, stop, pause, sleep
        self._waiting = 0
        self._lock = threading.Lock()

    def __call__(self, write: Callable[[], T], folder: Path) -> T:
        waiting = False
        try:
            while True:
                try:
                    return write()
                except Exception as error:
                    if not is_full(error) or self._stop():
                        raise
                if not waiting:
                    waiting = True
                    self.begin(folder, free_space(folder))
                self._sleep(self._pause)
        finally:
            if waiting:
                self.end(folder)

    def begin(self, folder: Path | str, free: str) -> None:
        """A wait has started, here or in a worker; free: by `free_space` where the disk is."""
        with self._lock:
            self._waiting += 1
            first = self._waiting == 1
        if first:
            self._say(no_space(folder, free))

    def end(self, folder: Path | str) -> None:
        """A wait has ended."""
        with self._lock:
            self._waiting -= 1
            last = self._waiting == 0
        if last and not self._stop():
            self._say(space_again(folder))


def mlflow_uri(storage: Path) -> str:
    """The SQLite database of MLflow that all studies of a storage folder share."""
    return f"sqlite:///{storage / 'mlflow.db'}"
