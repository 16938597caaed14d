"""Fetching what a command reads, from anywhere in an object store, into its own copy."""

from pathlib import Path

from meanflow_tune.remote.location import UnusableRemote, local_folder
from meanflow_tune.remote.object_store import ObjectStore, reason
from meanflow_tune.remote.study_copy import MANIFEST, fetch_study
from meanflow_tune.remote.trial_copy import TrialCopy, in_checkpoints
from meanflow_tune.urls import hide_password


def open_place(url: str) -> tuple[ObjectStore, Path, str]:
    """The bucket that a URL is in, the folder of this host for its copy, and the name inside it.

    Raises UnusableRemote.
    """
    place, question, query = url.partition("?")
    scheme, _, rest = place.partition("://")
    bucket, _, name = rest.partition("/")
    root = f"{scheme}://{bucket}{question}{query}"
    try:
        return ObjectStore(root), local_folder(root, "read"), name.strip("/")
    except OSError as error:
        raise UnusableRemote(
            f"{hide_password(url)}: no local copy of it can be made ({error})"
        ) from None


def fetch_file(url: str) -> Path:
    """The local copy of a file. Raises UnusableRemote where there is none."""
    store, root, name = open_place(url)
    try:
        if store.kind(name) == "file":
            store.fetch(name, root / name)
            return root / name
    except OSError as error:
        raise _silent(url, error) from error
    raise UnusableRemote(f"{hide_password(url)}: there is no such file")


def fetch_study_at(url: str) -> Path:
    """The local copy of a study's folder, without checkpoints and models. Raises UnusableRemote."""
    store, root, name = open_place(url)
    try:
        if store.kind(f"{name}/{MANIFEST}") == "file":
            return fetch_study(store, root, name)
    except OSError as error:
        raise _silent(url, error) from error
    raise UnusableRemote(f"{hide_password(url)}: holds no study")


def studies_in(store: ObjectStore) -> list[str]:
    """The names of the studies in a storage. Raises OSError."""
    return [name for name in store.folders() if store.kind(f"{name}/{MANIFEST}") == "file"]


def fetch_student(url: str) -> Path:
    """The local copy of what names a student: a checkpoint, a trial's or a model's folder, or best.json.

    Of a folder its newest whole checkpoint only, and that only where no model was exported. Of a best.json
    also the configurations of the study's trials, among which the leader is found, with their models.
    Raises UnusableRemote.
    """
    store, root, name = open_place(url)
    try:
        kind = store.kind(name)
        if kind == "file":
            store.fetch(name, root / name)
            if name.endswith("/best.json"):
                _fetch_folder(store, root, f"{name.rpartition('/')[0]}/trials", models=True)
        elif kind == "folder":
            _fetch_folder(store, root, name, models=True)
    except OSError as error:
        raise _silent(url, error) from error
    if not kind:
        raise UnusableRemote(f"{hide_password(url)}: there is no such file or folder")
    return root / name


def _fetch_folder(store: ObjectStore, root: Path, name: str, models: bool) -> None:
    fetch_study(store, root, name, models)
    checkpoints = {
        file.name.rpartition("/")[0] for file in store.files(name) if in_checkpoints(file.name)
    }
    for folder in checkpoints:
        trial = folder.rpartition("/")[0]
        if not (root / trial / "model" / "config.json").is_file():
            TrialCopy(store, root, root / trial).fetch_checkpoints()


def _silent(url: str, error: OSError) -> UnusableRemote:
    return UnusableRemote(f"{hide_password(url)}: does not answer ({reason(error)})")
