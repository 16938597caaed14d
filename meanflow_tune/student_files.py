"""An exported student: `student.safetensors` and `config.json`, each with its checksum."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from meanflow_tune.checksums import Damaged, read_checked, write_checked
from meanflow_tune.formats import FORMAT, KEY, check_format_of

WEIGHTS = "student.safetensors"
CONFIG = "config.json"


def export_student(
    folder: Path,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    shape: tuple[int, ...],
    classes: int | None,
) -> Path:
    """Write a student's state (its moving average) and what rebuilds its network; returns `folder`.

    config: of the trial; shape: *D. config.json is written last, so a folder with one is complete.
    """
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    about = {KEY: FORMAT, "config": dict(config), "shape": list(shape), "classes": classes}
    write_checked(folder / WEIGHTS, lambda path: save_file(weights, path))
    write_checked(folder / CONFIG, json.dumps(about, indent=1))
    return folder


def read_description(folder: Path) -> dict[str, Any]:
    """config.json of an exported student.

    Raises OSError, Damaged, and FormatError where a newer version made it.
    """
    content = _read(folder / CONFIG)
    try:
        description: Any = json.loads(content)
    except ValueError as error:  # also of text that is not UTF-8
        raise Damaged(f"{CONFIG} is not JSON: {error}") from None
    if (
        not isinstance(description, dict)
        or not {"config", "shape", "classes"} <= description.keys()
    ):
        raise Damaged(f"{CONFIG} describes no student")
    check_format_of(description, f"the student {folder}")
    return description


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of an exported student. Raises OSError and Damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = _read(folder / WEIGHTS)
    try:
        return load(content)
    except SafetensorError as error:
        raise Damaged(f"{WEIGHTS}: {error}") from None


def check_export(folder: Path) -> None:
    """Raises Damaged where a file of an exported student is not what was written, and OSError."""
    read_description(folder)
    read_weights(folder)


def _read(path: Path) -> bytes:
    try:
        return read_checked(path)
    except Damaged as error:
        raise Damaged(f"{path.name}: {error}") from None
