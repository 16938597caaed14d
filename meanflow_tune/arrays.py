"""Arrays in `.npz` files, such as the samples of a rung; the zip format keeps a checksum of each array."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meanflow_tune.checksums import Damaged, is_lost
from meanflow_tune.files import write_atomic

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a file of arrays by name; atomic. Raises OSError."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # to a path without .npz numpy would append it
            np.savez(file, allow_pickle=False, **arrays)

    write_atomic(path, write)


def read_arrays(path: Path) -> dict[str, Array]:
    """All arrays of a file, without objects, which would be pickles.

    Raises Damaged, with the file's name in one line, and OSError.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except OSError as error:
        if error.errno is not None and not is_lost(error):
            raise
        why = error.strerror or "it is no .npz file"
    except Exception as error:  # damaged bytes raise what zipfile, zlib and NumPy happen to meet
        log.debug("%s", path, exc_info=error)
        # NumPy's own message of an array of objects recommends allow_pickle=True.
        why = "an array of objects" if "pickle" in str(error) else type(error).__name__
    raise Damaged(f"{path.name} is damaged ({why})")
