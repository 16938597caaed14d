"""Files that are either the old or the new version after a crash, never something in between."""

import os
from collections.abc import Callable
from pathlib import Path


def write_atomic(path: Path, content: str | Callable[[Path], object]) -> None:
    """Fill a file beside `path` with text, or by a function of its path; sync it, and rename it.

    The file beside is removed when anything fails. Makes the folder. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if isinstance(content, str):
            beside.write_text(content, encoding="utf-8")
        else:
            content(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
