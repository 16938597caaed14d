"""manifest.json: the terms under which a study was made, and the history of their changes."""

import hashlib
import json
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import meanflow_tune
from meanflow_tune.files import read_small, write_atomic
from meanflow_tune.formats import FORMAT, FormatError, check_format_of
from meanflow_tune.search.errors import StorageError, StudyChanged, one_line
from meanflow_tune.settings import Settings

MANIFEST_NAME = "manifest.json"
LARGEST = 2**26  # bytes of manifest.json, whose history grows
PACKAGES = ("torch", "ray", "optuna", "mlflow", "numpy", "pydantic", "scikit-learn")
# They determine no number (our own code has its own hashes).
UNCOMPARED_PACKAGES = {"mlflow", "meanflow-tune"}

# The parts of meanflow_tune that determine numbers and decisions; the others show or store them.
HASHED_PARTS = (
    "core",
    "losses",
    "weightings",
    "time_samplers",
    "ds_schedules",
    "models",
    "data",
    "metrics",
    "config",
    "objective",
    "training",
    "search",
    "plan/confirm",
)
# Modules of these parts that determine none: they store, copy, guard or analyse.
UNHASHED_MODULES = (
    "search/errors",
    "search/analysis/forecast",
    "search/analysis/ranking",
    "search/analysis/rung_audit",
    "search/space/describe",
    "search/store/changes",
    "search/store/database",
    "search/store/database_lease",
    "search/store/holder",
    "search/store/lease",
    "search/store/lease_wait",
    "search/store/manifest",
    "search/store/proxy",
    "search/store/storage",
    "search/store/time_budget",
    "search/study/relocate",
)

# A change of these makes values of trials incomparable, so a user must accept it.
BINDING_FIELDS = (
    "space_hash",
    "objective",
    "overrides",
    "data_fingerprint",
    "seeds",
    "code",
    "versions",
)
NOTED_FIELDS = ("space", "sampler", "startup_trials", "seed", "rungs", "trials", "time_budget")


FILES_NAMED = 6  # of those that changed


class Change(Settings):
    """An entry of a study's history.

    time: unix seconds; changes: one sentence each; first_trial: number of the first trial after the
    change; terms: index of the terms from then on; accepted: whether it needed `--accept-changes`.
    """

    time: float
    changes: tuple[str, ...]
    first_trial: int
    terms: int
    accepted: bool


class Manifest(Settings):
    """format: see `formats`, the first where a file lacks it. overrides: `path=value` settings of every
    trial; rungs: the early stopping, or "none".

    seeds: of training, teacher and latents, which follow from `seed`; None where all are at their
    defaults, as in earlier versions. space_hash: of the space's source; space_files: name -> hash of
    each of its files; code_hash: of all of
    meanflow_tune; code: part -> hash, of the parts that determine numbers; created: unix seconds;
    terms: how often a change was accepted; study_storage: URL of the study's database, None for the
    journal in its folder. Fields that a manifest of an earlier version lacks are None, and are not
    compared.
    """

    format: int = FORMAT
    study: str
    space: str
    space_hash: str
    space_files: dict[str, str] | None = None
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
    code: dict[str, str] | None = None
    seeds: dict[str, int] | None = None
    startup_trials: int | None = None
    trials: int | None = None
    time_budget: float | None = None
    study_storage: str | None = None
    terms: int = 0
    history: tuple[Change, ...] = ()

    def facts(self) -> dict[str, Any]:
        """The description of the search for tracking, without history and hashes of parts."""
        return self.model_dump(mode="json", exclude={"history", "code", "space_files"})

    def write(self, folder: Path) -> None:
        """Write manifest.json into a study's folder, atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True)
        write_atomic(folder / MANIFEST_NAME, text + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest in a study's folder, None where there is none yet.

        Raises:
            StorageError: the file exists, and is not a manifest.
        """
        path = folder / MANIFEST_NAME
        try:
            data = json.loads(read_small(path, LARGEST))
            if isinstance(data, dict):
                data["format"] = check_format_of(data, f"study {path.parent}")
            return cls.model_validate(data)
        except FileNotFoundError:
            return None
        except FormatError as error:
            raise StorageError(str(error)) from None
        except (OSError, ValueError, RecursionError) as error:
            raise StorageError(
                f"{path} is not a readable manifest: {one_line(error)}; restore it from a copy, or put the"
                " study aside by --resume fresh"
            ) from error


@dataclass(frozen=True)
class TermsCheck:
    """The terms of a driver compared with those of its study.

    manifest: written before the first trial; binding: changes that must be accepted, empty once
    they are; notes: other changes and accepted ones, one line each.
    """

    manifest: Manifest
    binding: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def enforce(self) -> None:
        """Raise StudyChanged unless all changes are accepted; called where trials are left to run."""
        if self.binding:
            raise StudyChanged(
                f"study {self.manifest.study} cannot continue unchanged, because"
                f" {'; '.join(self.binding)}. Undo that, give the search another study name, or"
                " add --accept-changes to continue: every trial then stores the index of its terms"
            )

    @property
    def idle_notes(self) -> tuple[str, ...]:
        """Notes for a search without trials left to run, where no change is refused."""
        return tuple(f"note: {change}; no trial is left to run" for change in self.binding)


def check_terms(old: Manifest | None, new: Manifest, trials: int, accept: bool) -> TermsCheck:
    """Compare a driver's manifest with that in the study's folder; trials: number in the study.

    Raises:
        StudyChanged: the folder is that of a study with another name.
    """
    if old is None:
        return TermsCheck(new)
    if old.study != new.study:
        raise StudyChanged(
            f"the folder of study {new.study} was made for study {old.study}; rename it back, or"
            " run the search under that name"
        )
    kept = {"created": old.created, "terms": old.terms, "history": old.history}
    if trials == 0:
        return TermsCheck(new.model_copy(update=kept))
    binding, free = compare(old, new, BINDING_FIELDS), compare(old, new, NOTED_FIELDS)
    history = list(old.history)
    notes = [f"note: {change}" for change in free]
    if old.format < new.format:
        notes.append(f"note: the study is of format {old.format} and continues as {new.format}")
    if free:
        history.append(_entry(free, trials, old.terms, accepted=False))
    terms = old.terms
    if binding and accept:
        terms += 1
        history.append(_entry(binding, trials, terms, accepted=True))
        notes += [f"accepted from trial {trials} on: {change}" for change in binding]
    updated = new.model_copy(update=kept | {"terms": terms, "history": tuple(history)})
    return TermsCheck(updated, () if accept else tuple(binding), tuple(notes))


def is_source_of(old: Manifest, space_hash: str, earlier_hashes: Iterable[str]) -> bool:
    """Whether a study was made with a space as it is now.

    earlier_hashes: what earlier versions, which hashed fewer of its files, would store for it now.
    """
    made_earlier = old.space_files is None and old.space_hash in earlier_hashes
    return old.space_hash == space_hash or made_earlier


def with_source(old: Manifest, new: Manifest, earlier_hashes: Iterable[str]) -> Manifest:
    """`old`, with the hashes of the space as this version makes them where it is still the same."""
    if not is_source_of(old, new.space_hash, earlier_hashes):
        return old
    return old.model_copy(update={"space_hash": new.space_hash, "space_files": new.space_files})


def compare(old: Manifest, new: Manifest, names: Iterable[str]) -> list[str]:
    """One sentence for each of these fields that differs."""
    return [sentence for name in names for sentence in _change(name, old, new)]


def environment() -> dict[str, Any]:
    """The fields of a new manifest that follow from this machine: code, versions and time."""
    package = Path(meanflow_tune.__file__).resolve().parent
    return {
        "code_hash": code_hash(package),
        "code": part_hashes(package),
        "versions": package_versions(),
        "created": time.time(),
    }


def code_hash(package: Path) -> str:
    """Hash of the names and contents of all .py files below a folder."""
    return _hash(sorted(package.rglob("*.py")), package)


def part_hashes(package: Path) -> dict[str, str]:
    """part -> hash of its .py files, for HASHED_PARTS without UNHASHED_MODULES."""
    found = {}
    for part in HASHED_PARTS:
        file = package / f"{part}.py"
        files = [file] if file.exists() else sorted((package / part).rglob("*.py"))
        kept = [f"{name}.py" for name in UNHASHED_MODULES]
        files = [f for f in files if f.relative_to(package).as_posix() not in kept]
        found[part] = _hash(files, package)
    return found


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """name -> version, of Python and of the installed ones of these packages."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _entry(changes: Iterable[str], first: int, terms: int, accepted: bool) -> Change:
    return Change(
        time=time.time(),
        changes=tuple(changes),
        first_trial=first,
        terms=terms,
        accepted=accepted,
    )


def _hash(files: Iterable[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _change(name: str, old: Manifest, new: Manifest) -> list[str]:
    before, after = getattr(old, name), getattr(new, name)
    if before == after or (before is None and name != "time_budget"):
        return []
    if name == "versions":
        # An earlier version may have recorded fewer packages.
        compared = before.keys() - UNCOMPARED_PACKAGES
        return [
            f"{package} was {before[package]} and is {after.get(package, 'not installed')}"
            for package in sorted(compared)
            if before[package] != after.get(package)
        ]
    if name == "code":
        parts = sorted(set(before) | set(after))
        changed = [part for part in parts if before.get(part) != after.get(part)]
        return [f"the code of {', '.join(changed)} changed"]
    if name == "space_hash":
        return [f"the source of the search space changed ({_changed_files(old, new)})"]
    return [f"{_TITLES.get(name, name)} was {_show(before)} and is {_show(after)}"]


def _changed_files(old: Manifest, new: Manifest) -> str:
    """Which files of the space differ; the hashes where the earlier files are unknown."""
    if old.space_files is None or new.space_files is None or old.space_files == new.space_files:
        return f"{old.space_hash[:8]} -> {new.space_hash[:8]}"
    before, after = old.space_files, new.space_files
    words = [
        f"{name} {'is new' if name not in before else 'is gone' if name not in after else 'differs'}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    shown = words if len(words) <= FILES_NAMED else words[: FILES_NAMED - 1]
    return ", ".join([*shown, *([f"{len(words) - len(shown)} more"] if shown != words else [])])


_TITLES: Mapping[str, str] = {
    "data_fingerprint": "the fingerprint of the data",
    "overrides": "--set",
    "space": "--space",
    "sampler": "--sampler",
    "startup_trials": "--startup-trials",
    "seed": "--seed",
    "seeds": "what follows from --seed",
    "rungs": "early stopping",
    "trials": "--trials",
    "time_budget": "--time-budget",
}


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g} s"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {value[name]}" for name in sorted(value))
    return (" ".join(value) or "none") if isinstance(value, tuple) else str(value or "none")
