"""A student as a folder that others can load: `student.safetensors` and `config.json`, no pickle.

`Student` is what `meanflow_tune.load_student` gives. This is also an MLflow loader module:
`mlflow.pyfunc.load_model(uri).predict(frame, {"nfe": 1})` gives images [N, *D] float32 from a column
`seed` or `latent`, and `label` where the student has classes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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
from meanflow_tune.core.types import AverageVelocity
from meanflow_tune.student_files import read_description, read_weights

if TYPE_CHECKING:
    import pandas as pd

BATCH = 256


# Bounds of the same setting in training.
MOST_GUIDANCE = 20.0
SEED_END = 2**63


@dataclass(frozen=True)
class Student:
    """A loaded student. shape: *D; classes: their number, or None where it is unconditional."""

    net: nn.Module
    shape: tuple[int, ...]
    classes: int | None
    config: TrialConfig

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def latents(self, seeds: Tensor) -> Tensor:
        """Seeds [N] int64 to standard normal [N, *D]; a row depends on its own seed only."""
        generators = [make_generator(int(seed), "latent") for seed in seeds]
        return torch.stack([torch.randn(self.shape, generator=own) for own in generators])

    @torch.no_grad()
    def generate(
        self,
        latents: Tensor,
        labels: Tensor | None,
        nfe: int,
        guidance: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Latents [N, *D] and labels [N] or None to samples [N, *D] on the CPU, in `nfe` jumps each.

        guidance: as in `sample`. progress: called with the number of finished samples after each batch.
        """
        field = self.net if guidance is None else guided(self.net, self._null_label(), guidance)
        parts = []
        for start in range(0, len(latents), BATCH):
            batch = slice(start, start + BATCH)
            label = None if labels is None else labels[batch].to(self.device)
            parts.append(generate(field, latents[batch].to(self.device), label, nfe).cpu())
            if progress is not None:
                progress(min(start + BATCH, len(latents)))
        return torch.cat(parts)

    def sample(
        self,
        nfe: int = 1,
        n: int = 64,
        labels: Sequence[int] | None = None,
        seed: int = 0,
        guidance: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Samples [n, *D] in `nfe` evaluations each; twice as many with guidance.

        Sample i starts from the latent of seed + i and has the label labels[i % len(labels)], without
        `labels` the class i % classes: the row `seed` = seed + i of the logged MLflow model. So the
        first n samples do not depend on n, and those of two NFEs start from the same latents. To the
        bit, if the rows are those of the same call: a batch of another size may round differently.

        guidance: w replaces u by u_null + w (u_label - u_null), for a student with a trained null class
        only. Raises ValueError, in one line that names the setting.
        """
        if nfe < 1:
            raise ValueError(f"nfe {nfe} must be at least 1, the evaluations per sample.")
        seeds, given = self.rows(n, labels, seed)
        if guidance is not None:
            self.check_guidance(guidance)
        label = None if given is None else torch.tensor(given)
        latents = self.latents(torch.tensor(seeds))
        return self.generate(latents, label, nfe, guidance, progress).numpy()

    def rows(
        self, n: int, labels: Sequence[int] | None, seed: int
    ) -> tuple[list[int], list[int] | None]:
        """The seed and the label of each of `sample`'s rows. Raises ValueError as it does."""
        if n < 1:
            raise ValueError(f"n {n} must be at least 1, the number of samples.")
        if not 0 <= seed <= SEED_END - n:
            raise ValueError(
                f"seed {seed} must be from 0 to 2^63 - n: sample i takes the seed plus i."
            )
        seeds = list(range(seed, seed + n))
        if self.classes is None:
            if labels is not None:
                raise ValueError(
                    f"labels {_listed(labels)}: this student has no classes; leave them out."
                )
            return seeds, None
        cycle = range(self.classes) if labels is None else list(labels)
        if len(cycle) == 0:
            raise ValueError("labels is empty; leave it out to cycle through all classes.")
        if labels is not None and len(cycle) > n:
            raise ValueError(
                f"labels {_listed(labels)} are {len(cycle)}, more than the n {n} samples; raise n to "
                f"{len(cycle)}."
            )
        wrong = [label for label in cycle if not 0 <= label < self.classes]
        if wrong:
            raise ValueError(
                f"labels {_listed(wrong)}: this student has the classes 0 to {self.classes - 1}."
            )
        return seeds, [int(cycle[index % len(cycle)]) for index in range(n)]

    def check_guidance(self, guidance: float) -> None:
        """Raises ValueError, in one line with the reason, where samples cannot be guided so."""
        config, given = self.config, f"guidance {guidance:g}"
        if self.classes is None:
            raise ValueError(f"{given}: this student has no classes; leave it out.")
        if config.guidance is not None:
            raise ValueError(
                f"{given}: this student was trained with guidance.scale {config.guidance.scale:g}, "
                "which its samples have already; leave it out."
            )
        if config.label_dropout == 0.0:
            # One that started from a teacher's weights has the teacher's null class, untrained since.
            raise ValueError(
                f"{given}: this student has no null class of its own, since it was trained with "
                "label_dropout 0; leave guidance out, or train one with label_dropout 0.1 (and "
                "velocity_source from_scratch)."
            )
        if not (math.isfinite(guidance) and 0.0 <= guidance <= MOST_GUIDANCE):
            raise ValueError(f"{given} must be from 0 to {MOST_GUIDANCE:g}; 1 is no guidance.")

    def _null_label(self) -> int:
        assert self.classes is not None
        return self.classes

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


def guided(net: AverageVelocity, null_label: int, scale: float) -> AverageVelocity:
    """u_null + scale (u_label - u_null): classifier-free guidance (arXiv 2207.12598) of u(x_t, t, s)."""

    def velocity(x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        free = net(x, t, s, torch.full_like(label, null_label))
        return torch.lerp(free, net(x, t, s, label), scale)

    return velocity


def _listed(labels: Sequence[int]) -> str:
    return ",".join(str(label) for label in labels)


def load_student(folder: Path) -> Student:
    """Read a folder made by `export_student`.

    Raises OSError, Damaged, and ValueError where its configuration is not valid.
    """
    description = read_description(Path(folder))
    config = TrialConfig.from_dict(description["config"])
    shape, classes = tuple(description["shape"]), description["classes"]
    net = config.network(shape, classes, rebuilding_generator())
    load_whole_state(net, read_weights(Path(folder)))
    return Student(net.eval().requires_grad_(False), shape, classes, config)


def _load_pyfunc(path: str) -> Student:
    """MLflow's entry point."""
    return load_student(Path(path))
