"""Moving a study between its journal and databases.

The copy is exact: all studies of the search, with generations and confirmation, and all trials with
numbers, states, attributes and dates. It is made once; afterwards the source records the new location
(a journal by being renamed), so that two locations never both claim the study.
"""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial

from meanflow_tune.files import sqlite_below, sqlite_path
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.store.manifest import Manifest
from meanflow_tune.search.store.storage import JOURNAL_NAME, free_name, is_url
from meanflow_tune.search.store.trials import CONFIG
from meanflow_tune.search.study.generations import add_trials
from meanflow_tune.urls import has_hidden, hide_password

COPIED, MOVED = "copied", "moved_to"

log = logging.getLogger(__name__)


def find_study(folder: Path, url: str | None) -> str | Path:
    """Where to read a study: the given URL, else its journal, else the URL in its manifest.

    Raises StorageError where the manifest's cannot be used.
    """
    journal = folder / JOURNAL_NAME
    if url is not None or journal.exists():
        return url or journal
    manifest = Manifest.read(folder)
    recorded = manifest.study_storage if manifest else None
    if recorded and has_hidden(recorded):
        raise StorageError(
            f"study {folder.name} is in the database {recorded}, whose password is not stored: give its URL "
            "by --study-storage or OPTUNA_STORAGE"
        )
    return recorded_url(folder, recorded) if recorded else journal


def recorded_url(folder: Path, url: str) -> str:
    """The URL of a study's database as its manifest has it, with an absolute path.

    Earlier versions recorded a relative path of SQLite as it was given, and took it from the current
    folder. Raises StorageError where there is no such file, neither there nor in the storage folder.
    """
    places = (sqlite_below(url, folder.parent), sqlite_below(url, Path.cwd()))
    if places[0] == url:
        return url
    for place in places:
        if (file := sqlite_path(place)) is not None and file.exists():
            return place
    raise StorageError(
        f"study {folder.name} is recorded to be in {url}, and neither {folder.parent} nor the current folder"
        " has that file; run the command in the folder where it is, or name it by --study-storage"
        " sqlite:////FOLDER/FILE"
    )


def open_study(
    folder: Path,
    name: str,
    url: str | None,
    open_at: Callable[[str | Path], BaseStorage],
    say: Callable[[str], None] = log.info,
) -> BaseStorage:
    """The storage of a study for writing, at `url` or in its journal, moved there if needed.

    open_at: `open_storage` with the fence of the lease.

    Raises:
        StorageError: a storage cannot be opened, or two locations hold different studies.
    """
    journal = folder / JOURNAL_NAME
    target: str | Path = url or journal
    source = _source(folder, url)  # first, since opening the target makes its file
    if has_hidden(str(source)):
        raise StorageError(
            f"study {name} is in {source}, which needs a password: give it by --study-storage; to move"
            " the study, use a URL without a password first (clients read it from ~/.pgpass, for example)"
        )
    storage = open_at(target)
    if source is None:
        return storage
    _transfer(open_at(source), storage, name, source, target, say)
    if isinstance(source, Path):
        source.rename(free_name(source, "moved"))
    return storage


def _source(folder: Path, url: str | None) -> str | Path | None:
    """Where the study was so far, if elsewhere."""
    journal = folder / JOURNAL_NAME
    manifest = Manifest.read(folder)
    before = manifest.study_storage if manifest else None
    if url is not None and journal.exists():
        return journal
    if before is None:
        return None
    try:
        before = recorded_url(folder, before)
    except StorageError:
        if url is None:
            raise
        return None  # what was named instead has to hold the study
    same = url is not None and _place(before) == _place(url)
    return None if same else before


def _place(url: str) -> str:
    """A database whoever uses it; the manifest of an earlier version hides the user's name."""
    return re.sub(r"(?<=://)[^/@]*@", "", hide_password(url))


def _transfer(
    source: BaseStorage,
    target: BaseStorage,
    name: str,
    source_location: str | Path,
    target_location: str | Path,
    say: Callable[[str], None],
) -> None:
    old, new = studies_of(source, name), studies_of(target, name)
    if name not in old or MOVED in old[name].user_attrs:
        return
    shown = [hide_password(str(location)) for location in (source_location, target_location)]
    unfinished = name in new and new[name].user_attrs.get(COPIED) != "whole"
    if (
        name not in new
        or (unfinished and not _is_used(target, new[name]))
        or (MOVED in new[name].user_attrs and _extends(source, target, name))
    ):
        _copy(source, target, name, say, f"from {shown[0]} to {shown[1]}")
    elif _contents(source, name) != _contents(target, name):
        raise StorageError(
            f"both {shown[0]} and {shown[1]} hold a study {name}, and they differ; nothing was"
            " written: remove or rename one of them, or give the search another study name"
        )
    if is_url(source_location):
        source.set_study_user_attr(old[name]._study_id, MOVED, shown[1])


def _is_used(storage: BaseStorage, study: FrozenStudy) -> bool:
    """Whether a study is more than a copy that a kill interrupted."""
    begun = study.user_attrs.get(COPIED) == "begun"
    return not begun and storage.get_n_trials(study._study_id) > 0


def _copy(
    source: BaseStorage, target: BaseStorage, name: str, say: Callable[[str], None], route: str
) -> None:
    for left in studies_of(target, name).values():
        target.delete_study(left._study_id)
    studies = studies_of(source, name)
    count = sum(source.get_n_trials(study._study_id) for study in studies.values())
    say(f"copying the study with its {count} trials {route}")
    # The search's own study comes last: once it is complete, everything is.
    for study in sorted(studies.values(), key=lambda one: one.study_name == name):
        study_id = target.create_new_study(study.directions, study.study_name)
        target.set_study_user_attr(study_id, COPIED, "begun")
        for key, value in study.user_attrs.items():
            if key not in (COPIED, MOVED):
                target.set_study_user_attr(study_id, key, value)
        for key, value in study.system_attrs.items():
            if ":parent:" not in key:  # trial ids of a sampler, which differ in the copy
                target.set_study_system_attr(study_id, key, value)
        add_trials(target, study_id, source.get_all_trials(study._study_id), say)
        target.set_study_user_attr(study_id, COPIED, "whole")


def studies_of(storage: BaseStorage, name: str) -> dict[str, FrozenStudy]:
    """The studies of a search: NAME, its generations, and siblings such as NAME/confirm."""
    own = re.compile(rf"{re.escape(name)}(/[^@]+)?(@\d+)?")
    return {s.study_name: s for s in storage.get_all_studies() if own.fullmatch(s.study_name)}


def _trials(storage: BaseStorage, name: str) -> dict[str, list[FrozenTrial]]:
    """The trials of each study of a search, by number; not copied, so do not change them."""
    return {
        study: storage.get_all_trials(frozen._study_id, deepcopy=False)
        for study, frozen in studies_of(storage, name).items()
    }


def _contents(storage: BaseStorage, name: str) -> dict[str, list[tuple[Any, ...]]]:
    """What must be equal in two copies of a search."""
    return {
        study: [
            (t.number, t.state, t.values, t.params, t.user_attrs, t.intermediate_values)
            for t in trials
        ]
        for study, trials in _trials(storage, name).items()
    }


def _extends(source: BaseStorage, target: BaseStorage, name: str) -> bool:
    """Whether the source is a later state of the target: the same configurations by number."""
    old = _trials(source, name)
    return all(
        study in old
        and len(trials) <= len(old[study])
        and all(
            trial.user_attrs.get(CONFIG) in (None, same.user_attrs.get(CONFIG))
            for trial, same in zip(trials, old[study], strict=False)
        )
        for study, trials in _trials(target, name).items()
    )
