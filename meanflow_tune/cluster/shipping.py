"""Python files that only the driver's host has, made importable in the processes of Ray.

Objects are pickled by reference: a worker unpickles a loss or a network of a user by importing its module.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path


def stage(modules: Mapping[str, Path], folder: Path) -> list[str]:
    """Copy files into a folder to import from; returns what is in it then, packages and single modules.

    modules: place in that folder, such as `helpers/near.py`, -> file. Only these are copied, so that
    neither data nor earlier runs next to them travel to every host.
    """
    for place, file in modules.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return sorted(str(folder / top) for top in {Path(place).parts[0] for place in modules})
