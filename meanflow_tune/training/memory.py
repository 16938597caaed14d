"""Out of memory: recognised among other errors, quantified, and cleaned up after."""

import gc
import re

import torch

from meanflow_tune import this_machine

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
    total = _size(_OF_GPU, text) if on_gpu else this_machine.memory()
    return asked / total if asked and total else UNKNOWN


def cap_gpu_memory(share: float, device: str) -> None:
    """Let this process take at most its share of a GPU that ranks of several trials use.

    Before its first allocation there. share: of one GPU, as the rank was given it; a whole one has no cap.
    """
    if 0.0 < share < 1.0 and device.startswith("cuda"):
        torch.cuda.set_per_process_memory_fraction(share, device)


def free_memory() -> None:
    """Free what the trial that ran out of memory still holds; call it outside the `except`."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _size(pattern: re.Pattern[str], text: str) -> float | None:
    found = pattern.search(text)
    return float(found[1]) * _UNITS[found[2]] if found else None
