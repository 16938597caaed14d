"""Freed memory is used again within a trial, returned between trials, and left alone on request."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from meanflow_tune.training.process import freed_memory
from meanflow_tune.training.process.freed_memory import SWITCH

GLIBC = freed_memory._glibc() is not None
ONLY_GLIBC = pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")

# Prints the page faults of 50 uses of a block of 40 MB, and what it says about itself.
FAULTS = """
import resource
from meanflow_tune.training.process.freed_memory import described, keep_freed_memory
keep_freed_memory()
use = lambda: bytearray(b"x") * 40_000_000
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, described(), sep=";")
"""

# 200 trials of different sizes, each of many blocks; prints MiB that are resident behind each.
TRIALS = """
import random
from pathlib import Path
import torch
from meanflow_tune.training.process.freed_memory import keep_freed_memory, return_freed_memory
assert keep_freed_memory()
draw = random.Random(0)
torch.set_num_threads(1)
for trial in range(200):
    width = draw.choice([1, 2, 4, 8]) * 2**16
    kept = []
    for _ in range(draw.randint(20, 40)):
        x = torch.ones(draw.randint(1, 4) * width)
        kept.append((x * 2 + 1)[: draw.randint(1, 2000)].clone())  # small ones between large ones
    del x, kept
    return_freed_memory()
    print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20)
"""


def output_of(code: str, **environment: str) -> str:
    variables = {k: v for k, v in os.environ.items() if k != SWITCH and "MALLOC" not in k}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=variables | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@ONLY_GLIBC
def test_blocks_are_used_again_unless_the_switch_is_off() -> None:
    """Counted by the pages that the kernel had to give."""
    kept, words = output_of(FAULTS).strip().split(";")
    returned, off = output_of(FAULTS, **{SWITCH: "0"}).strip().split(";")
    assert words == "freed memory is kept"
    assert off == f"freed memory is returned at once ({SWITCH}=0)"
    assert 20 * int(kept) < int(returned)


@ONLY_GLIBC
@pytest.mark.slow
def test_what_is_resident_does_not_grow_with_the_trials() -> None:
    resident = [float(line) for line in output_of(TRIALS).split()]
    assert len(resident) == 200
    assert max(resident[20:]) < max(resident[:20]) + 16


@pytest.mark.parametrize("missing", ["mallopt", "gnu_get_libc_version", "all", "linux"])
def test_another_c_library_is_left_alone(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """musl has no mallopt, macOS has neither."""

    def library(name: None) -> Any:
        if missing == "all":
            raise OSError("no dynamic loading")
        known = dict.fromkeys(("mallopt", "malloc_trim", "gnu_get_libc_version"), pytest.fail)
        known.pop(missing, None)
        return SimpleNamespace(**known)

    monkeypatch.setattr(ctypes, "CDLL", library)
    if missing == "linux":
        monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(freed_memory._State, "kept", False)
    assert not freed_memory.keep_freed_memory()
    freed_memory.return_freed_memory()
    assert freed_memory.described() == "freed memory is returned at once"
