"""An exported student: `student.safetensors` and `config.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from meanflow_tune.files import write_atomic
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
    write_atomic(folder / WEIGHTS, lambda path: save_file(weights, path))
    write_atomic(folder / CONFIG, json.dumps(about, indent=1))
    return folder


def read_description(folder: Path) -> dict[str, Any]:
    """config.json of an exported student. Raises OSError, and ValueError where a newer version made it."""
    path = folder / CONFIG
    description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    check_format_of(description, f"the student {folder}")
    return description
