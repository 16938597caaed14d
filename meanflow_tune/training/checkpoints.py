"""Checkpoints: written atomically, with a checksum; the newest valid one is loaded.

A checkpoint `000016384.pt` counts only together with `000016384.sha256`, which is written last, so that a
kill at any moment leaves either a whole new checkpoint or the previous one.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from meanflow_tune.checksums import MISMATCH, Damaged, digest, is_lost, put_aside
from meanflow_tune.files import write_atomic
from meanflow_tune.formats import FORMAT, KEY, check_format
from meanflow_tune.training.memory import memory_shortage

KEPT = 3
UNFINISHED = "it has no checksum: its write was not finished"


def save_checkpoint(folder: Path, images: int, state: dict[str, Any]) -> Path:
    """Write `state` as the checkpoint at `images`; the last KEPT ones stay. Raises OSError."""
    path = folder / f"{images:012d}.pt"
    checksum = path.with_suffix(".sha256")
    checksum.unlink(missing_ok=True)
    write_atomic(path, lambda temporary: _write(temporary, {KEY: FORMAT, **state}))
    write_atomic(checksum, digest(path))
    for old in sorted(folder.glob("*.pt"))[:-KEPT]:
        old.with_suffix(".sha256").unlink(missing_ok=True)
        old.unlink(missing_ok=True)
    return path


def _write(path: Path, state: dict[str, Any]) -> None:
    # Through a Python file: torch's own writer does not tell that a disk is full.
    with open(path, "wb") as file:
        torch.save(state, file)


def checked(folder: Path) -> Iterator[tuple[Path, str]]:
    """The checkpoints below `folder`, newest first, each with why it does not count, "" if it does."""
    for path in sorted(folder.glob("*.pt"), reverse=True):
        checksum = path.with_suffix(".sha256")
        try:
            right = checksum.exists() and checksum.read_bytes() == digest(path).encode()
        except OSError as error:
            if not is_lost(error):
                raise
            yield path, f"it cannot be read: {error.strerror}"
            continue
        yield path, "" if right else MISMATCH if checksum.exists() else UNFINISHED


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint with a matching checksum; `warn` gets a line per other one before it."""
    for path, why in checked(folder):
        if not why:
            return path
        warn(f"checkpoint {path} is damaged ({why}); falling back to the previous one")
    return None


def keep_newest(folder: Path, count: int) -> None:
    """Remove all checkpoints but the `count` newest valid ones, where there are that many.

    One that cannot be removed stays. Without a valid one, nothing is removed unless `count` is 0.
    """
    if sum(1 for _ in folder.glob("*.pt")) <= count:
        return
    whole = (path for path, why in checked(folder) if not why)
    valid = list(islice(whole, count))
    if count and not valid:
        return
    for path in folder.glob("*.pt"):
        if path not in valid:
            with suppress(OSError):
                path.with_suffix(".sha256").unlink(missing_ok=True)
                path.unlink()


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint and its checksum; returns the new path. Raises OSError."""
    return put_aside(path, path.with_suffix(".sha256"))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in `path`, in the processor's memory; tensors and plain data only (`weights_only`).

    Raises Damaged, with the reason in one line, FormatError where a newer version wrote it, and OSError.
    """
    try:
        # Not to a device, whose errors say nothing about the file.
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if not is_lost(error):
            raise
        raise Damaged(f"it cannot be read: {error.strerror}") from None
    except pickle.UnpicklingError:
        # Torch's own message recommends to load it with weights_only=False, which runs what is in it.
        raise Damaged(
            "it holds more than tensors and plain data, which is not loaded from storage, or is not "
            "written by torch.save"
        ) from None
    except Exception as error:  # torch has an error for every kind of damage
        if memory_shortage(error) is not None:
            raise
        raise Damaged(f"torch cannot read it: {reason(error)}") from None
    if not isinstance(state, dict):
        raise Damaged(f"it holds {type(state).__name__}, no state of a run")
    check_format(state.pop(KEY, None), f"checkpoint {path}")
    return state


def reason(error: BaseException) -> str:
    """An error's type and the first line of its message, without a full stop."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *(line.rstrip(".") for line in lines[:1])])
