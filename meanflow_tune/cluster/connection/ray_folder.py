"""The folder for the files of a private Ray: short, closed to others, and removed once nobody uses it."""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from meanflow_tune.cluster.errors import ClusterError
from meanflow_tune.files import make_private

_PREFIX = "mft-"
PRIVATE = f"/{_PREFIX}{os.getuid()}"  # in the path of each such folder
LONGEST = 30  # characters of the parent: a socket's path in it has at most 107
LOCK = "in-use"
# Where locks do not work, a folder is left alone as long as its files are younger.
OLD_SECONDS = 7 * 24 * 3600.0


@dataclass(frozen=True)
class RayFolder:
    """A folder that this process uses; `release` removes it.

    Others see by the lock, not by a pid, that it is in use: those in other containers share /tmp but
    no process numbers. notes: parents that could not be used, a line each.
    """

    path: Path
    lock: int
    notes: tuple[str, ...] = ()

    def release(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self.lock)


def is_private(text: str) -> bool:
    """Whether a command line names such a folder, of any user."""
    return re.search(rf"/{_PREFIX}\d", text) is not None


def own_folder() -> RayFolder:
    """A new folder of mode 0700. Raises ClusterError where no parent can be used.

    Removes those that nobody uses any more.
    """
    notes: list[str] = []
    for parent in _parents():
        try:
            make_private(parent)
            _remove_unused(parent)
            path, lock = _create(parent)
            said = tuple(f"Ray's files are in {path}, not in {note}." for note in notes)
            return RayFolder(path, lock, said)
        except OSError as error:
            notes.append(f"{parent}: {error.strerror or error}")
    raise ClusterError(
        f"no folder for Ray's files can be made ({'; '.join(notes)}). Set TMPDIR to a folder of yours "
        f"with a path of at most {LONGEST} characters."
    )


def _parents() -> Iterator[Path]:
    """The candidates, the usual one first."""
    bases = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/dev/shm")]
    short = dict.fromkeys(base for base in bases if len(str(base)) <= LONGEST)
    yield from (base / PRIVATE[1:] for base in short)
    # Whoever took the names above cannot know these.
    yield from (base / f"{PRIVATE[1:]}-{secrets.token_hex(2)}" for base in short)


def _create(parent: Path) -> tuple[Path, int]:
    path = parent / secrets.token_hex(4)
    path.mkdir(mode=0o700)
    lock = os.open(path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # see `_is_unused`
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return path, lock


def _remove_unused(parent: Path) -> None:
    for folder in parent.iterdir():
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(folder.lstat().st_mode) and _is_unused(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_unused(folder: Path) -> bool:
    """Whether nobody holds the folder's lock; where there are no locks, whether it is old.

    A folder without the file is one that is just being made, or not ours.
    """
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - _newest(folder) > OLD_SECONDS
    else:
        return True
    finally:
        os.close(lock)


def _newest(folder: Path) -> float:
    """When something below was last written: Ray's logs grow as long as it runs."""
    times = [folder.lstat().st_mtime]
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            times.append(path.lstat().st_mtime)
    return max(times)
