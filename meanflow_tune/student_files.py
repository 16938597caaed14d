"""An exported student: `student.safetensors` and `config.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from meanflow_tune.files import write_atomic

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
    about = {"config": dict(config), "shape": list(shape), "classes": classes}
    write_atomic(folder / WEIGHTS, lambda path: save_file(weights, path))
    write_atomic(folder / CONFIG, json.dumps(about, indent=1))
    return folder
