"""Checksums next to files that are written once and read later, and what becomes of damaged files.

`NAME.sha256` is written after NAME. A file without one, of an earlier revision or of a write that was killed,
counts once it could be loaded.
"""

import errno
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from meanflow_tune.files import write_atomic

SUFFIX = ".sha256"
DAMAGED = "damaged"
MISMATCH = "its checksum does not match"
# Of blocks that a disk or a file system cannot give back, and of seeks that a damaged file makes libraries
# try; other errors may pass.
_LOST = (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EINVAL)


class Damaged(ValueError):
    """The content of a file is not what was written; the message says why, without the file's name."""


def digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_file(path: Path) -> Path:
    """Where the checksum of `path` is kept."""
    return path.with_name(path.name + SUFFIX)


def recorded(path: Path) -> str | None:
    """The checksum that was kept of `path`; None without one, "" where it is no checksum."""
    try:
        words = checksum_file(path).read_bytes().split()
    except FileNotFoundError:
        return None
    return words[0].decode("ascii", "replace") if words else ""


def record(path: Path, found: str) -> None:
    """Keep the checksum of `path`, in the form of the program `sha256sum`. Raises OSError."""
    write_atomic(checksum_file(path), f"{found}  {path.name}\n")


def write_checked(path: Path, content: str | Callable[[Path], object]) -> None:
    """`write_atomic`, and the checksum. Raises OSError."""
    checksum_file(path).unlink(missing_ok=True)
    write_atomic(path, content)
    record(path, digest(path))


def read_checked(path: Path) -> bytes:
    """The content of `path`. Raises Damaged where it has another checksum, and OSError."""
    expected = recorded(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        if is_lost(error):
            raise Damaged(f"it cannot be read: {error.strerror}") from None
        raise
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise Damaged(MISMATCH)
    return content


def is_lost(error: OSError) -> bool:
    """Whether an error of reading means that the content is gone."""
    return error.errno in _LOST


def put_aside(path: Path, checksum: Path | None = None, word: str = DAMAGED) -> Path:
    """Rename a damaged file, and its checksum, to `NAME.damaged-TIME`; returns the new path.

    checksum: where it is not NAME.sha256; word: in place of `damaged`. Raises OSError.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    kept, number = path.with_name(f"{path.name}.{word}-{stamp}"), 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.{word}-{stamp}-{number}")
    os.rename(path, kept)
    checksum = checksum_file(path) if checksum is None else checksum
    if checksum.exists():
        os.rename(checksum, checksum_file(kept))
    return kept


def refuse_damaged(path: Path, why: str) -> None:
    """Raises Damaged, with the path: nothing here can make it again."""
    raise Damaged(f"{path} is damaged ({why})")
