"""Where MLflow keeps what the studies of a storage folder track: its database, artifacts, and a client.

MLflow creates a SQLite database by a hundred migrations, which take ten seconds or more. A kill in
between leaves one that MLflow refuses ("out-of-date database schema"), so it is created under a
temporary name and renamed last. The paths in it are absolute; they follow when the folder is moved.
"""

import contextlib
import logging
import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from meanflow_tune.files import is_below, mlflow_uri, put_if_absent, sqlite_path, sqlite_url

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME_TAG = (
    "meanflow_tune.name"  # an experiment's first name, which the place of its artifacts ends with
)
_PREFIX = ".mlflow-new-"
_ABANDONED = 3600.0  # seconds after which an unfinished database has no owner
# The tables and columns of MLflow that hold paths of artifacts.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)


def default_uri(storage: Path) -> str:
    """The SQLite database that all studies of a storage folder share."""
    return mlflow_uri(Path(storage).resolve())


def default_artifacts(storage: Path) -> Path:
    """The artifact root that goes with `default_uri`."""
    return Path(storage).resolve() / "artifacts"


def connect(uri: str) -> "MlflowClient":
    """A client of the server or database at `uri`; creates a SQLite database that does not exist."""
    # MLflow reads these when it is first imported or used. No retries: the outbox does them.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # Of rows that MLflow writes twice: the error itself is raised, and taken by MLflow.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    # Ray may have imported mlflow earlier, which then has read the level already.
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])
    # It prints the errors that it raises (a full disk), with a traceback, at each try.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    ensure_database(uri)
    return MlflowClient(uri, registry_uri=uri)


def ensure_database(uri: str) -> None:
    """Create MLflow's tables in a PostgreSQL database, or the file of an SQLite one, unless they exist.

    Other kinds of URI are ignored.
    """
    if uri.partition("://")[0].partition("+")[0] == "postgresql":
        _ensure_tables(uri)
        return
    path = sqlite_path(uri)
    if path is None or path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{_PREFIX}*"):  # by a killed process
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=path.parent))
    try:
        beside = folder / path.name
        MlflowClient(sqlite_url(beside)).search_experiments(max_results=1)
        put_if_absent(beside, path)  # another driver of this storage may have been faster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ensure_tables(uri: str) -> None:
    """One driver after another: MLflow itself fails where two create the same tables at once.

    A kill leaves no half of them, since the server rolls the transaction of its migrations back.
    """
    from mlflow import MlflowClient
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('meanflow_tune mlflow'))"))
        MlflowClient(uri, registry_uri=uri).search_experiments(max_results=1)


def adopt_artifacts(database: Path, artifacts: Path) -> list[str]:
    """Make the database point at `artifacts`; returns the earlier roots, empty if none differed.

    Only experiments at ROOT/EXPERIMENT count, with a ROOT of the same name as `artifacts`.
    """
    if not database.exists():
        return []
    new = artifacts.as_uri()
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in known:
            return []
        # An experiment may have been renamed since; its places end with its first name.
        names = "experiments.name"
        join = ""
        if "experiment_tags" in known:
            names = "COALESCE(t.value, experiments.name)"
            join = (
                " LEFT JOIN experiment_tags t ON t.experiment_id = experiments.experiment_id"
                f" AND t.key = '{NAME_TAG}'"
            )
        rows = connection.execute(
            f"SELECT {names}, artifact_location FROM experiments{join}"
        ).fetchall()
        roots = {_root(name, place, artifacts.name) for name, place in rows} - {None, new}
        earlier = sorted(root for root in roots if root is not None)
        for old in earlier:
            for table, column in _PLACES:
                if table in known:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                        f" WHERE substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, len(old) + 1, f"{old}/"),
                    )
        return earlier


def current_path(path: str, study: str, storage: Path) -> Path:
    """Where a file of a study is now, if it is no longer where an event of the outbox says."""
    given = Path(path)
    _, found, inside = path.rpartition(f"/{study}/")
    moved = storage / study / inside
    stays = given.exists() and is_below(given, storage, storage / study)
    return moved if found and not stays and moved.exists() else given


def _root(experiment: str, place: str | None, name: str) -> str | None:
    """The artifact root of an experiment at `place`; None where it does not lie in one."""
    end = f"/{name}/{quote(experiment)}"
    if not place or not place.startswith("file:") or not place.endswith(end):
        return None
    return place[: -len(end)] + f"/{name}"
