"""Small file systems that can be filled: a tmpfs, where this process may mount one."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.needs import needs, needs_root, unavailable


@contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[Path]:
    """`folder` as a file system of that size, for a test that needs root for it."""
    needs_root("to mount a small file system")
    needs("mount", "to mount a small file system")
    folder.mkdir(parents=True)
    size = f"size={round(megabytes * 1024)}k"
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if made.returncode != 0:
        unavailable(f"cannot mount a small file system: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazy: a process that is just ending may have a file there open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the space that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2
    return filler
