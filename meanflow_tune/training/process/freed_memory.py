"""Freed memory that stays with the process: glibc returns large blocks to the kernel at once.

By default every large operator of a training step maps fresh pages, which the kernel has to clear, and
returns them when it is done; that can take a quarter of a step. Kept, the next operator uses them again.
What a process holds is returned between trials, so that it does not grow with them.
"""

import ctypes
import os
import sys

SWITCH = "MEANFLOW_TUNE_KEEP_FREED_MEMORY"
# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_SETTINGS = (
    (_MMAP_MAX, 0),  # no block of its own pages, which go back to the kernel when it is freed
    (_TRIM_THRESHOLD, 2**31 - 1),  # free bytes at the top of the heap that stay
    (_TOP_PAD, 2**26),  # bytes that the heap grows by at least
)


class _State:
    """Of this process."""

    kept = False


def keep_freed_memory() -> bool:
    """Keep what this process frees from now on, unless `SWITCH` is 0; whether it is kept.

    Without effect where the C library is not glibc (macOS, musl).
    """
    library = _glibc() if wanted() else None
    if library is not None:
        _State.kept = all(library.mallopt(name, value) == 1 for name, value in _SETTINGS)
    return _State.kept


def return_freed_memory() -> None:
    """Return what is free to the kernel, where this process keeps it; takes milliseconds."""
    library = _glibc() if _State.kept else None
    if library is not None:
        library.malloc_trim(0)


def wanted() -> bool:
    """Whether `SWITCH` leaves freed memory with the process."""
    return os.environ.get(SWITCH, "1").strip() != "0"


def described() -> str:
    """Whether this process keeps freed memory, in words."""
    if _State.kept:
        return "freed memory is kept"
    return f"freed memory is returned at once{'' if wanted() else f' ({SWITCH}=0)'}"


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None)
        _ = library.gnu_get_libc_version, library.mallopt, library.malloc_trim
    except (OSError, AttributeError):
        return None
    return library
