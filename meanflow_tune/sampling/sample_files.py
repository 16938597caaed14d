"""Samples as an .npz file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meanflow_tune.arrays import write_arrays

Floats = npt.NDArray[np.float32]


def write_samples(
    path: Path,
    samples: Mapping[int, Floats],
    latents: Floats,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
) -> None:
    """Arrays `samples@NFE` and `latents` [N, *D] float32, `seeds` [N] and, with classes, `labels` [N].

    Atomic. Raises OSError.
    """
    arrays: dict[str, npt.NDArray[Any]] = {f"samples@{nfe}": x for nfe, x in samples.items()}
    arrays |= {"latents": latents, "seeds": np.array(seeds, dtype=np.int64)}
    if labels is not None:
        arrays["labels"] = np.array(labels, dtype=np.int64)
    write_arrays(path, arrays)
