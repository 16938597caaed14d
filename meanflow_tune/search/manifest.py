"""manifest.json: the terms under which a study was made, and what has changed since."""

import hashlib
import json
import platform
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from meanflow_tune.files import write_atomic
from meanflow_tune.search.errors import StorageError, StudyChanged, one_line
from meanflow_tune.settings import Settings

MANIFEST_NAME = "manifest.json"
PACKAGES = (
    "meanflow-tune",
    "torch",
    "ray",
    "optuna",
    "mlflow",
    "numpy",
    "pydantic",
    "scikit-learn",
)

# Values of trials made under different terms of these are not comparable.
BINDING = ("study", "space", "space_hash", "objective", "overrides", "data_fingerprint")
ADVISORY = ("sampler", "seed", "rungs", "code_hash", "versions")


class Manifest(Settings):
    """overrides: `path=value` settings of every trial; rungs: the early stopping, or "none".

    space_hash, code_hash: of source files; created: unix seconds.
    """

    study: str
    space: str
    space_hash: str
    goal: str
    objective: str
    overrides: tuple[str, ...]
    sampler: str
    seed: int
    rungs: str
    data_fingerprint: str
    code_hash: str
    versions: dict[str, str]
    created: float

    @classmethod
    def make(
        cls,
        *,
        study: str,
        space: str,
        space_hash: str,
        goal: str,
        objective: str,
        overrides: Iterable[str],
        sampler: str,
        seed: int,
        rungs: str,
        data_fingerprint: str,
    ) -> "Manifest":
        """A manifest for a study that starts now, with this machine's versions and code."""
        return cls(
            study=study,
            space=space,
            space_hash=space_hash,
            goal=goal,
            objective=objective,
            overrides=tuple(overrides),
            sampler=sampler,
            seed=seed,
            rungs=rungs,
            data_fingerprint=data_fingerprint,
            code_hash=code_hash(Path(__file__).resolve().parents[1]),
            versions=package_versions(),
            created=time.time(),
        )

    def write(self, folder: Path) -> None:
        """Write manifest.json into a study's folder, atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True)
        write_atomic(folder / MANIFEST_NAME, text + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest of a study's folder, None where there is none yet.

        Raises:
            StorageError: the file is there, and is not a manifest.
        """
        path = folder / MANIFEST_NAME
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, ValidationError) as error:
            raise StorageError(f"{path} is not a readable manifest: {one_line(error)}") from error


def compare(old: Manifest, new: Manifest) -> list[str]:
    """One sentence for each term that differs, the binding ones first."""
    return [sentence for name in (*BINDING, *ADVISORY) for sentence in _change(name, old, new)]


def check_resumable(old: Manifest, new: Manifest) -> list[str]:
    """The differences that are only worth a warning.

    Raises:
        StudyChanged: a binding term differs, so that the study's values would not be comparable.
    """
    binding = [sentence for name in BINDING for sentence in _change(name, old, new)]
    if binding:
        raise StudyChanged(
            f"study {old.study} cannot go on, because {'; '.join(binding)}; undo that, or give the"
            " search another study name"
        )
    return compare(old, new)


def code_hash(package: Path) -> str:
    """Hash of the names and contents of all .py files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """name -> version of Python and of those packages that are installed."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _change(name: str, old: Manifest, new: Manifest) -> list[str]:
    before, after = getattr(old, name), getattr(new, name)
    if before == after:
        return []
    if name == "versions":
        changed = {
            package: (before.get(package, "none"), after.get(package, "none"))
            for package in sorted(before | after)
            if before.get(package) != after.get(package)
        }
        return [f"{package} was {was} and is {now}" for package, (was, now) in changed.items()]
    if name.endswith("_hash"):
        what = {"space_hash": "the source of the search space", "code_hash": "meanflow_tune's code"}
        return [f"{what[name]} changed ({before[:8]} -> {after[:8]})"]
    return [f"{name.replace('_', ' ')} was {_show(before)} and is {_show(after)}"]


def _show(value: Any) -> str:
    return (" ".join(value) or "none") if isinstance(value, tuple) else str(value)
