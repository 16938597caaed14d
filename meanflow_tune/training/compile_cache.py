"""Where compiled code is kept: a folder on this host that only this user can use.

Slots and restarts on a host share it. Not on a shared storage: torch unpickles what it finds there, which
runs it. Torch's own default is a name in /tmp that another user may have taken first.
"""

import atexit
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from meanflow_tune.files import make_private

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# Begins the name that torch takes, and puts into the variable, where nobody has set it.
TORCHS_OWN = "torchinductor_"
NAME = f"mft-compiled-{os.getuid()}"
# Bytes above which the oldest files go, down to half; one architecture takes some megabytes.
LARGEST = 4 * 2**30
# A file that was used within this time may be in use.
YOUNG_SECONDS = 3600.0

log = logging.getLogger(__name__)


def use_compile_cache(bases: tuple[Path, ...] = ()) -> Path:
    """Make torch keep compiled code in the private folder, before it compiles; returns the folder.

    One that the user has set in TORCHINDUCTOR_CACHE_DIR stays. bases: folders to make it in, the first that
    works; the temporary folder and /tmp by default. Where none works, it is one for this process alone.
    """
    given = os.environ.get(VARIABLE)
    if given and not Path(given).name.startswith(TORCHS_OWN):
        return Path(given)
    for base in dict.fromkeys(bases or (Path(tempfile.gettempdir()), Path("/tmp"))):
        folder = base / NAME
        try:
            make_private(folder)
        except OSError as error:
            log.warning("compiled code cannot be kept in %s: %s", folder, error.strerror or error)
            continue
        shrink(folder, LARGEST)
        break
    else:
        folder = Path(tempfile.mkdtemp(prefix=f"{NAME}-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[VARIABLE] = str(folder)
    return folder


def shrink(folder: Path, largest: int) -> None:
    """Where the files below `folder` take more than `largest` bytes, remove the longest unused, down to half.

    What is missing is compiled again.
    """
    found = sorted(_files(folder), key=lambda each: each[0])
    total = sum(size for _, size, _ in found)
    if total <= largest:
        return
    for used, size, path in found:
        if total <= largest // 2 or time.time() - used < YOUNG_SECONDS:
            return
        with suppress(OSError):  # another slot may do the same
            path.unlink()
            total -= size


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each file was last used, its size and its path; links are not followed."""
    for path in folder.rglob("*"):
        with suppress(OSError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):
                yield max(found.st_atime, found.st_mtime), found.st_size, path
