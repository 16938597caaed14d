"""MLflow's SQLite database, made whole or not at all.

MLflow makes it by a hundred migrations, which take ten seconds and more. A kill in between leaves one
that MLflow refuses for ever ("out-of-date database schema"), so it is made beside and gets its name last.
"""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

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
