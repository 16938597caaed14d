"""MLflow's SQLite database, made whole or not at all.

MLflow makes it by a hundred migrations, which take ten seconds and more. A kill in between leaves one
that MLflow refuses for ever ("out-of-date database schema"), so it is made beside and gets its name last.
"""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

_PREFIX = ".mlflow-new-"
_ABANDONED = 3600.0  # seconds after which an unfinished one is nobody's


def ensure_database(uri: str) -> None:
    """Make the database at a URI `sqlite:///PATH`; nothing where it exists, or for another kind of URI."""
    scheme, _, name = uri.partition(":///")
    path = Path(name)
    if scheme != "sqlite" or not name or path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=path.parent))
    try:
        beside = folder / path.name
        MlflowClient(f"sqlite:///{beside}").search_experiments(max_results=1)
        # Another driver of this storage may have been quicker: a link never replaces a file.
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """What a kill left behind."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)


# The tables and columns of MLflow that say where artifacts are.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)


def adopt_artifacts(database: Path, artifacts: Path) -> list[str]:
    """Make the database point at `artifacts`; returns the earlier roots, empty where none differed.

    Only experiments that were made with such a root (ROOT/EXPERIMENT, ROOT called as today) count.
    """
    if not database.exists():
        return []
    new = artifacts.as_uri()
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in known:
            return []
        rows = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        roots = {_root(name, place, artifacts.name) for name, place in rows} - {None, new}
        for old in sorted(root for root in roots if root is not None):
            for table, column in PLACES:
                if table in known:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                        f" WHERE substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, len(old) + 1, f"{old}/"),
                    )
        return sorted(root for root in roots if root is not None)


def now_at(path: str, study: str, storage: Path) -> Path:
    """Where a file of a study is today, if it is not where an event of the outbox says."""
    given = Path(path)
    _, found, inside = path.rpartition(f"/{study}/")
    moved = storage / study / inside
    return moved if found and not given.exists() and moved.exists() else given


def _root(experiment: str, place: str | None, name: str) -> str | None:
    end = f"/{name}/{quote(experiment)}"
    if not place or not place.startswith("file:") or not place.endswith(end):
        return None
    return place[: -len(end)] + f"/{name}"
