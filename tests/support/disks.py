"""Small file systems that can be filled, and some without links, where this process may mount them."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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


@contextmanager
def exfat_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """`folder` as a file system without links of any kind, by FUSE; the test is skipped without that.

    Also in CI, whose machines need not have it: the same is tested with stand-ins.
    """
    for program in ("losetup", "mkfs.exfat", "mount.exfat-fuse"):
        if os.geteuid() != 0 or shutil.which(program) is None:
            pytest.skip(f"needs root and the program {program!r} to mount an exFAT file system")
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.exfat", str(image)], check=True, capture_output=True)
    attached = subprocess.run(
        ["losetup", "-f", "--show", str(image)], capture_output=True, text=True
    )
    if attached.returncode != 0:
        pytest.skip(f"cannot attach a loop device: {attached.stderr.strip()}")
    device = attached.stdout.strip()
    folder.mkdir(parents=True)
    try:
        made = subprocess.run(
            ["mount.exfat-fuse", device, str(folder)], capture_output=True, text=True
        )
        if made.returncode != 0:
            pytest.skip(f"cannot mount an exFAT file system: {made.stderr.strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


class NoLinks:
    """A file system without links, as FAT answers; files count as links do on one that has them."""

    def __init__(self, patch: pytest.MonkeyPatch, code: int = errno.EPERM) -> None:
        self.code, self.asked = code, 0
        patch.setattr(os, "link", self)
        patch.setattr(os, "symlink", self)

    def __call__(self, source: object, target: object, *more: object, **others: object) -> None:
        self.asked += 1
        raise OSError(self.code, os.strerror(self.code), str(source), None, str(target))


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
