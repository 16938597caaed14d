"""Atomic files, and writes that wait while the disk is full."""

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote

T = TypeVar("T")
U = TypeVar("U")
log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What file systems without links (FAT, exFAT, some network shares) answer to `link` and `symlink`.
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)  # of a folder
_NO_SPACE = os.strerror(errno.ENOSPC)
_SQLITE_FULL = "database or disk is full"
# A process id was in place of the token before.
_TEMPORARY = re.compile(r"\..+\.([0-9]+|[0-9a-f]{16})\.tmp")
_CLEANED: set[Path] = set()
LEFT_SECONDS = 3600.0  # without a change: no write of a living process takes that long


def write_atomic(path: Path, content: str | Callable[[Path], object], durable: bool = True) -> None:
    """Write text, or what a function writes to a path, so that a crash leaves the old file or the new one.

    Writes a temporary file next to `path`, syncs it and renames it; removes it when anything fails. Makes
    the folder. Several threads, processes and hosts may write one path at once: the last one counts.
    durable: after a power cut, too; False for what is written again in a moment, since a sync takes
    milliseconds of the disk.
    Raises OSError, with ENOSPC also where a library hides a full disk in its own error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        else:
            content(temporary)
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if is_full(error) and not isinstance(error, OSError):
            raise OSError(errno.ENOSPC, _NO_SPACE, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def _remove_left(folder: Path) -> None:
    """Remove what killed processes left; once per folder and process."""
    if folder in _CLEANED:
        return
    _CLEANED.add(folder)
    with contextlib.suppress(OSError):  # another process may do the same
        for left in folder.iterdir():
            old = _TEMPORARY.fullmatch(left.name) is not None
            if old and time.time() - left.stat().st_mtime > LEFT_SECONDS:
                left.unlink()


def read_small(path: Path, limit: int) -> str:
    """The text of a file that its program wrote.

    Raises OSError, and ValueError where it is no UTF-8 or has more than `limit` bytes: it is damaged
    then, and reading it would fill the memory.
    """
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return data.decode("utf-8")


def sync_folder(folder: Path) -> None:
    """Make new and renamed files in `folder` survive a power cut, where its file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def make_private(folder: Path) -> None:
    """Make a folder of this user, closed to others, in a place such as /tmp.

    Raises OSError where something else is there: a link, or what another user made.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{'a symbolic link' if stat.S_ISLNK(found.st_mode) else 'not a folder'}")
    if found.st_uid != os.getuid():
        raise OSError(f"belongs to user {found.st_uid}, not to {os.getuid()}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)


def without_links(error: OSError) -> bool:
    """Whether a link failed because the file system has none of its kind."""
    return error.errno in _NO_LINKS


def put_if_absent(source: Path, target: Path) -> None:
    """Move a file on one file system to `target`, unless something is there; the source may stay.

    A link never replaces a file; without links, callers of this function take turns by a lock.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.link(source, target)
        return
    except OSError as error:
        if not without_links(error):
            raise
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # without locks as well: the moment is short
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not target.exists():
            os.replace(source, target)
    finally:
        os.close(descriptor)


def is_below(path: Path | str, *folders: Path) -> bool:
    """Whether a path leads into one of these folders, with `..` and links followed."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)


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


class Unreachable(ConnectionError):
    """A server that holds a study does not answer, and may do so again. `server`: without a password."""

    def __init__(self, server: str, why: str) -> None:
        super().__init__(f"{server} does not answer ({why})")
        self.server = server


class WritePolicy(Protocol):
    """How a write below `folder` is made: once, or repeated while the disk is full or a server is down."""

    def __call__(self, write: Callable[[], T], folder: Path) -> T: ...


def write_once(write: Callable[[], T], folder: Path) -> T:
    """Write once; any OSError propagates."""
    return write()


class WaitForSpace:
    """Repeats a write while the disk is full, or a server `Unreachable`; shared by the threads of a driver.

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
        self._unanswered: Counter[str] = Counter()  # server -> threads that wait for it
        self._lock = threading.Lock()

    def __call__(self, write: Callable[[], T], folder: Path) -> T:
        with ExitStack() as waits:
            waiting: set[str] = set()  # for space (""), or for these servers
            while True:
                try:
                    return write()
                except Exception as error:
                    down = isinstance(error, Unreachable)
                    if not (down or is_full(error)) or self._stop():
                        raise
                    server = error.server if isinstance(error, Unreachable) else ""
                    if server not in waiting:
                        waiting.add(server)
                        if down:
                            self._begin_unanswered(server, str(error))
                            waits.callback(self._end_unanswered, server)
                        else:
                            self.begin(folder, free_space(folder))
                            waits.callback(self.end, folder)
                self._sleep(self._pause)

    def _begin_unanswered(self, server: str, error: str) -> None:
        with self._lock:
            self._unanswered[server] += 1
            first = self._unanswered[server] == 1
        if first:
            self._say(f"{error}: the search continues once it does; nothing is lost")

    def _end_unanswered(self, server: str) -> None:
        with self._lock:
            self._unanswered[server] -= 1
            last = self._unanswered[server] == 0
        if last and not self._stop():
            self._say(f"{server} answers again: the search continues")

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


class OnlyShown:
    """Makes what is only for looking at: a failure ends nothing; it is told in one line, once per purpose.

    say: gets that line, the log where it is None; the traceback is logged for debugging. passing: errors
    that are no failure to show something, such as that of a lost lease.
    """

    def __init__(
        self,
        say: Callable[[str], None] | None = None,
        passing: tuple[type[Exception], ...] = (),
    ) -> None:
        self._say, self._passing = say, passing
        self._told: set[str] = set()

    def __call__(self, purpose: str, make: Callable[[], T], otherwise: T, full: bool = False) -> T:
        """What `make` returns, or `otherwise`. purpose: in the words of "could not …".

        full: raise the error of a full disk, for a caller that waits; else it is passed over, since the
        search itself tells it.
        """
        try:
            return make()
        except self._passing:
            raise
        except Exception as error:
            if is_full(error):
                if full:
                    raise
                return otherwise
            if purpose not in self._told:
                self._told.add(purpose)
                log.debug("could not %s", purpose, exc_info=error)
                lines = str(error).strip().splitlines()
                why = ": ".join([type(error).__name__, *lines[:1]])
                (self._say or log.warning)(f"could not {purpose} ({why}); the search continues")
            return otherwise


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite database; SQLAlchemy unquotes it, after it has looked for a `?`."""
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def sqlite_path(url: str) -> Path | None:
    """The file of a URL `sqlite:///FILE`; None for another kind of URL, or without a file."""
    scheme, _, name = url.partition(":///")
    name = unquote(name.partition("?")[0])
    if scheme.partition("+")[0] != "sqlite" or not name or name == ":memory:":
        return None
    return Path(name)


def sqlite_below(url: str, folder: Path) -> str:
    """A URL with the file of its SQLite database taken from `folder` on, if it is a relative path.

    Any other URL stays as it is, as does one that SQLite itself takes apart (`file:`).
    """
    path = sqlite_path(url)
    if path is None or path.is_absolute() or path.parts[0].startswith("file:"):
        return url
    driver, _, rest = url.partition(":///")
    query = rest.partition("?")[1:]
    return "".join((driver, sqlite_url(folder.absolute() / path).removeprefix("sqlite"), *query))


def mlflow_uri(storage: Path) -> str:
    """The SQLite database of MLflow that all studies of a storage folder share."""
    return sqlite_url(storage / "mlflow.db")
