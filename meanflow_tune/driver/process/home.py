"""A home for the libraries of a search, which fail or complain without one that they can write to.

Containers and batch systems run commands as a user without HOME or an entry in the table of users, or with a
read-only home.
"""

import getpass
import os
import tempfile
from pathlib import Path

from meanflow_tune.files import make_private

# What only caches needs, so that a read-only home stays where credentials are read from.
_CACHES = {
    "MPLCONFIGDIR": "matplotlib",
    "XDG_CACHE_HOME": "cache",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}


def ensure_home() -> None:
    """Set, where they are missing, HOME, the user's name, and folders for caches, for this process and those
    that it starts."""
    home = _home()
    if home is not None and os.access(home, os.W_OK | os.X_OK):
        _ensure_name()
        return
    own = Path(tempfile.gettempdir()) / f"mft-home-{os.getuid()}"
    try:
        make_private(own)
    except OSError:
        own = Path(tempfile.mkdtemp(prefix="mft-home-"))
    if home is None:
        os.environ["HOME"] = str(own)
    for variable, name in _CACHES.items():
        os.environ.setdefault(variable, str(own / name))
    _ensure_name()


def _home() -> Path | None:
    """The home folder; None where there is none."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_dir() else None


def _ensure_name() -> None:
    try:
        getpass.getuser()
    except (KeyError, OSError):  # no entry in the table of users
        os.environ["USER"] = f"uid-{os.getuid()}"
