"""`--delete-study`: a study, its confirmation and its tracking, after a question.

The study's folder is renamed before it is removed, so that no half of a study is left to be resumed. What
an interruption leaves is found by the same command.
"""

import os
import secrets
import shutil
import sys
from pathlib import Path

from meanflow_tune.files import sqlite_below
from meanflow_tune.plan.request import (
    EXIT_IN_USE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNUSABLE,
    SearchRequest,
    UserError,
)
from meanflow_tune.search.errors import LeaseLost, StorageError, StudyInUse
from meanflow_tune.search.store.database_lease import AnyLease, acquire_lease
from meanflow_tune.search.store.holder import LEASE_NAME, read_lease
from meanflow_tune.search.store.manifest import MANIFEST_NAME, Manifest
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.store.trials import trial_states
from meanflow_tune.search.study.relocate import recorded_url, studies_of
from meanflow_tune.tracking.outbox import read_uid
from meanflow_tune.tracking.removal import Tracked, Unreachable, find_tracked, remove_tracked
from meanflow_tune.urls import has_hidden, hide_password

KEEP = "--keep-mlflow"


def delete_study(request: SearchRequest, yes: bool, keep_mlflow: bool) -> int:
    """Ask, and delete. Returns the exit status: 0 also where the answer is no."""
    folder = request.folder
    left = _left_behind(request)
    parts = (MANIFEST_NAME, JOURNAL_NAME, LEASE_NAME)
    exists = any((folder / name).exists() for name in parts)
    if not exists and not left:
        raise UserError(
            f"--delete-study: there is no study {request.study} in {request.storage}; name it by --study"
            " and --storage."
        )
    if folder.is_symlink():
        raise UserError(
            f"--delete-study: {folder} is a symbolic link to {os.path.realpath(folder)}, and what it leads to"
            " is not deleted; give that study's own --storage, or remove the link."
        )
    if not yes and not sys.stdin.isatty():
        raise UserError(
            "--delete-study: there is no terminal to ask on; add --yes to delete anyway."
        )
    try:
        if exists:
            with acquire_lease(folder, request.study, _database(request)) as lease:
                if not _delete(request, lease, yes, keep_mlflow):
                    return EXIT_OK
        left = _left_behind(request)
        if not exists and not yes and not _agreed(f"Remove what is left of it, {left[0]}?"):
            return EXIT_OK
        for path in left:
            shutil.rmtree(path)
    except LeaseLost as error:
        raise UserError(str(error), EXIT_UNUSABLE) from None
    except StudyInUse as error:
        raise UserError(f"--delete-study: {error}", EXIT_IN_USE) from None
    except Unreachable as error:
        raise UserError(
            f"--delete-study: MLflow does not answer ({error}); the study's folder is untouched; start its"
            f" server, or add {KEEP} to leave the experiment there.",
            EXIT_UNUSABLE,
        ) from None
    except OSError as error:
        raise UserError(
            f"--delete-study: {error.filename or folder}: {error.strerror or error}; the same command"
            " deletes the rest.",
            EXIT_UNUSABLE,
        ) from None
    except KeyboardInterrupt:
        print("\nInterrupted; the same command deletes what is left.", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(f"deleted study {request.study}")
    return EXIT_OK


def _delete(request: SearchRequest, lease: AnyLease, yes: bool, keep_mlflow: bool) -> bool:
    """Whether it was agreed to, and done but for removing the renamed folder."""
    folder, url = request.folder, _database(request)
    tracked = (
        Tracked("")
        if keep_mlflow
        else find_tracked(request.mlflow_uri, request.study, read_uid(folder))
    )
    for line in _what_goes(request, tracked, url, keep_mlflow):
        print(line)
    if not yes and not _agreed("Delete all of this?"):
        return False
    lease.check()
    remove_tracked(tracked, request.study)
    if url is not None:
        storage = open_storage(url, lease.check)
        for name, study in studies_of(storage, request.study).items():
            storage.delete_study(study._study_id)
            print(f"  {name} is deleted from {hide_password(url)}")
    gone = request.storage / f".deleted-{request.study}-{secrets.token_hex(4)}"
    lease.check()
    os.rename(folder, gone)
    held = read_lease(gone)
    if held is None or held.epoch != lease.epoch:  # another driver came in between
        os.rename(gone, folder)
        lease.check()
    return True


def _agreed(question: str) -> bool:
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() in ("y", "yes"):
        return True
    print("nothing was deleted")
    return False


def _what_goes(
    request: SearchRequest, tracked: Tracked, url: str | None, keep_mlflow: bool
) -> list[str]:
    folder = request.folder
    lines = [
        f"Study {request.study}:",
        f"  {folder} ({_size(folder)}), with checkpoints and models",
    ]
    location = url or folder / JOURNAL_NAME
    try:
        storage = open_storage(location)
        for name in studies_of(storage, request.study):
            if "@" not in name:
                count = len(trial_states(storage, name))
                what = "confirmation, " if name != request.study else ""
                where = f" in {hide_password(url)}" if url is not None else ""
                lines.append(f"  {what}{count} trial{'s' * (count != 1)}{where}")
    except StorageError as error:
        lines.append(f"  trials that cannot be read ({error})")
    if keep_mlflow:
        lines.append(f"MLflow keeps its experiment ({KEEP}).")
    elif tracked.experiment is None:
        lines.append(f"MLflow has no experiment of it ({hide_password(tracked.uri)}).")
    else:
        later = "; its server keeps them as deleted until `mlflow gc`" if tracked.kept else ""
        lines.append(
            f"  in MLflow ({hide_password(tracked.uri)}): the experiment, {len(tracked.runs)} runs,"
            f" {len(tracked.versions)} registered model versions and all artifacts{later}"
        )
    lines.append(f"Teachers stay ({request.teachers}), since other studies share them.")
    return lines


def _database(request: SearchRequest) -> str | None:
    """The URL of the database that holds the study; None for the journal in its folder."""
    manifest = Manifest.read(request.folder)
    stored = manifest.study_storage if manifest is not None else None
    if stored is None:
        return None
    try:
        stored = recorded_url(request.folder, stored)
    except StorageError:  # what is left of the study can be deleted without it
        stored = sqlite_below(stored, request.storage)
    given = request.study_storage
    if given is not None and hide_password(given) == hide_password(stored):
        return given
    if has_hidden(stored):
        raise UserError(
            f"--delete-study: the study is in {stored}, which needs a password: give it by --study-storage."
        )
    return stored


def _left_behind(request: SearchRequest) -> list[Path]:
    """Renamed folders of an interrupted deletion of this study, or of one that is about to go."""
    return sorted(
        path
        for path in request.storage.glob(f".deleted-{request.study}-*")
        if len(path.name) == len(f".deleted-{request.study}-") + 8
    )


def _size(folder: Path) -> str:
    total = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{total / 2**20:,.1f} MB"
