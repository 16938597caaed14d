"""Out of memory: recognised among other errors, quantified, and cleaned up after."""

import gc
import os
import re

import torch

UNKNOWN = 1.0  # the shortage where the message has no sizes
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}
_SIZE = r"([\d.]+) (bytes|KiB|MiB|GiB|TiB|PiB)"
_ASKED = re.compile(rf"(?:[Tt]ried to allocate|Unable to allocate) {_SIZE}")
_OF_GPU = re.compile(rf"total capacity of {_SIZE}")
# What torch's allocator for the CPU says, on Linux and on other systems.
_CPU_SIGNS = ("can't allocate memory", "not enough memory")


def memory_shortage(error: BaseException) -> float | None:
    """How much memory was lacking, None where `error` is of another kind.

    The size of the requested block as a share of its device's memory (above 0), where the message of
    torch or NumPy has both; else UNKNOWN.
    """
    text = str(error)
    on_gpu = isinstance(error, torch.OutOfMemoryError)
    on_cpu = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in _CPU_SIGNS)
    )
    if not (on_gpu or on_cpu):
        return None
    asked = _size(_ASKED, text)
    total = _size(_OF_GPU, text) if on_gpu else _host_memory()
    return asked / total if asked and total else UNKNOWN


def free_memory() -> None:
    """Free what the trial that ran out of memory still holds; call it outside the `except`."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _size(pattern: re.Pattern[str], text: str) -> float | None:
    found = pattern.search(text)
    return float(found[1]) * _UNITS[found[2]] if found else None


def _host_memory() -> float | None:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        return None
