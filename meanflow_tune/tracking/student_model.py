"""A student as a folder that others can load: `student.safetensors` and `config.json`, no pickle.

It is also an MLflow loader module: `mlflow.pyfunc.load_model(uri).predict(frame, {"nfe": 1})` gives
images [N, *D] float32 from a column `seed` or `latent`, and `label` where the student has classes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.generation import generate
from meanflow_tune.core.module_state import load_whole_state, rebuilding_generator
from meanflow_tune.core.random import make_generator
from meanflow_tune.student_files import CONFIG, WEIGHTS

if TYPE_CHECKING:
    import pandas as pd

BATCH = 256


@dataclass(frozen=True)
class Student:
    """A loaded student. shape: *D; classes: their number, or None where it is unconditional."""

    net: nn.Module
    shape: tuple[int, ...]
    classes: int | None

    def latents(self, seeds: Tensor) -> Tensor:
        """Seeds [N] int64 to standard normal [N, *D]; a row depends on its own seed only."""
        generators = [make_generator(int(seed), "latent") for seed in seeds]
        return torch.stack([torch.randn(self.shape, generator=own) for own in generators])

    @torch.no_grad()
    def generate(self, latents: Tensor, labels: Tensor | None, nfe: int) -> Tensor:
        """Latents [N, *D] and labels [N] or None to samples [N, *D] by `nfe` evaluations each."""
        batches = [slice(start, start + BATCH) for start in range(0, len(latents), BATCH)]
        parts = [
            generate(self.net, latents[batch], None if labels is None else labels[batch], nfe)
            for batch in batches
        ]
        return torch.cat(parts)

    def predict(
        self, data: "pd.DataFrame", params: Mapping[str, Any] | None = None
    ) -> npt.NDArray[np.float32]:
        """Rows of `seed` or `latent` (and `label`) to images [N, *D]; params: {"nfe": 1}.

        Raises ValueError for missing, doubled or misshapen columns and for unknown labels.
        """
        nfe = int((params or {}).get("nfe", 1))
        if nfe < 1:
            raise ValueError(f"`nfe >= 1` must hold, but got {nfe}.")
        if len(data) == 0:
            return np.empty((0, *self.shape), dtype=np.float32)
        images = self.generate(self._read_latents(data), self._read_labels(data), nfe)
        return images.numpy()

    def _read_latents(self, data: "pd.DataFrame") -> Tensor:
        if ("seed" in data) == ("latent" in data):
            raise ValueError(
                f"Give a column `seed` or a column `latent`, not both; got {list(data.columns)}."
            )
        if "seed" in data:
            return self.latents(torch.from_numpy(data["seed"].to_numpy(dtype=np.int64, copy=True)))
        rows = [np.asarray(row, dtype=np.float32).ravel() for row in data["latent"]]
        size = int(np.prod(self.shape))
        wrong = next((row.size for row in rows if row.size != size), None)
        if wrong is not None:
            raise ValueError(
                f"A latent must have {size} values, flattened from {self.shape}, but got {wrong}."
            )
        return torch.from_numpy(np.stack(rows)).reshape(-1, *self.shape)

    def _read_labels(self, data: "pd.DataFrame") -> Tensor | None:
        if self.classes is None:
            return None
        if "label" not in data:
            raise ValueError(
                f"This student has classes: give a column `label`, 0 to {self.classes - 1}."
            )
        labels = torch.from_numpy(data["label"].to_numpy(dtype=np.int64, copy=True))
        if bool(((labels < 0) | (labels >= self.classes)).any()):
            got = sorted(set(labels.tolist()))
            raise ValueError(f"`0 <= label < {self.classes}` must hold, but got {got}.")
        return labels


def load_student(folder: Path) -> Student:
    """Read a folder made by `export_student`; ValueError where its configuration is not valid."""
    from safetensors.torch import load_file

    description = json.loads((Path(folder) / CONFIG).read_text())
    config = TrialConfig.from_dict(description["config"])
    shape, classes = tuple(description["shape"]), description["classes"]
    net = config.network(shape, classes, rebuilding_generator())
    load_whole_state(net, load_file(Path(folder) / WEIGHTS))
    return Student(net.eval().requires_grad_(False), shape, classes)


def _load_pyfunc(path: str) -> Student:
    """MLflow's entry point."""
    return load_student(Path(path))
