"""Where a remote storage is, and the folder of this host that holds its local copy.

The local copy says by a file in it which storage it belongs to, so that a path is enough to find the
storage. Imports nothing heavy: every command asks.
"""

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

from meanflow_tune.files import make_private, write_atomic
from meanflow_tune.urls import hide_password

CACHE = "MEANFLOW_TUNE_CACHE"
MARKER = ".remote.json"
_NAMES_URL = re.compile(r"[a-z][a-z0-9+.-]+://")
_CLOUDS = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")


class UnusableRemote(ValueError):
    """A remote storage that a user has to correct, or to make reachable."""


def is_remote(text: object) -> bool:
    """Whether a storage, file or folder is named by a URL."""
    return isinstance(text, str) and _NAMES_URL.match(text) is not None


def local_folder(url: str, purpose: str = "work") -> Path:
    """The folder of this host for a copy of the storage at `url`; created, and marked with the URL.

    Its path is the same on all hosts where MEANFLOW_TUNE_CACHE, or else the home folder, is. purpose: what
    only reads has its own copy, so that it never replaces a file under a driver.

    Raises UnusableRemote for a URL of an unknown kind, OSError where the folder cannot be written.
    """
    scheme = url.partition("://")[0]
    if scheme not in _CLOUDS:
        raise UnusableRemote(
            f"{hide_password(url)}: no storage of this kind is known; give a folder, or one of"
            f" {', '.join(f'{kind}://' for kind in _CLOUDS)}"
        )
    url = url.rstrip("/")
    if not url.partition("://")[2].partition("?")[0]:
        raise UnusableRemote(
            f"{hide_password(url)}: names no bucket; give {scheme}://BUCKET/FOLDER"
        )
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", hide_password(url.partition("?")[0]))[-60:]
    digest = hashlib.sha256(url.encode()).hexdigest()[:10]
    folder = cache_root() / purpose / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    marker = folder / MARKER
    if not marker.exists():
        write_atomic(marker, json.dumps({"url": url}))
    return folder


def cache_root() -> Path:
    """The folder of all local copies on this host. Raises OSError where it belongs to somebody else."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(base) and os.access(os.path.dirname(base), os.W_OK):
        return Path(base) / "meanflow_tune"
    own = Path(tempfile.gettempdir()) / f"meanflow_tune-cache-{os.getuid()}"
    make_private(own)  # in a folder of all users, who may have made it first
    return own


def storage_of(path: Path) -> tuple[str, Path] | None:
    """The URL and the local folder of the remote storage that a local path is a copy of; None without."""
    for folder in (path, *path.parents):
        try:
            url = json.loads((folder / MARKER).read_text(encoding="utf-8"))["url"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return (url, folder) if isinstance(url, str) else None
    return None


def artifact_root(url: str) -> str:
    """Where MLflow keeps artifacts of studies in the storage at `url`; credentials are not in it."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].rstrip('/')}/artifacts"


def shown_storage(folder: Path) -> str:
    """A storage as a user gave it: its URL, without a password, or its folder."""
    found = storage_of(folder)
    return str(folder) if found is None else hide_password(found[0])
