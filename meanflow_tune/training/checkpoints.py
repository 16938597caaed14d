"""Checkpoints: written atomically, with a checksum; the newest valid one is loaded.

A checkpoint `000016384.pt` counts only together with `000016384.sha256`, which is written last, so that a
kill at any moment leaves either a whole new checkpoint or the previous one.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from meanflow_tune.files import write_atomic
from meanflow_tune.formats import FORMAT, KEY, check_format

KEPT = 3


def _digest(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def save_checkpoint(folder: Path, images: int, state: dict[str, Any]) -> Path:
    """Write `state` as the checkpoint at `images`; the last KEPT ones stay. Raises OSError."""
    path = folder / f"{images:012d}.pt"
    checksum = path.with_suffix(".sha256")
    checksum.unlink(missing_ok=True)
    write_atomic(path, lambda temporary: _write(temporary, {KEY: FORMAT, **state}))
    write_atomic(checksum, _digest(path))
    for old in sorted(folder.glob("*.pt"))[:-KEPT]:
        old.with_suffix(".sha256").unlink(missing_ok=True)
        old.unlink(missing_ok=True)
    return path


def _write(path: Path, state: dict[str, Any]) -> None:
    # Through a Python file: torch's own writer does not tell that a disk is full.
    with open(path, "wb") as file:
        torch.save(state, file)


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint with a matching checksum; `warn` gets a line per damaged one."""
    for path in sorted(folder.glob("*.pt"), reverse=True):
        checksum = path.with_suffix(".sha256")
        if checksum.exists() and checksum.read_bytes() == _digest(path).encode():
            return path
        warn(f"checkpoint {path} is damaged or unfinished; falling back to the previous one")
    return None


def load_checkpoint(path: Path, device: str) -> dict[str, Any]:
    """The state in `path`; tensors and plain data only (`weights_only`).

    Raises ValueError where a newer version wrote it.
    """
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    check_format(state.pop(KEY, None), f"checkpoint {path}")
    return state
