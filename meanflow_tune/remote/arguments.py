"""What a command line names: a path of this host, or a URL whose local copy stands for it."""

import argparse
from pathlib import Path

from meanflow_tune.remote.location import (
    CACHE,
    UnusableRemote,
    is_remote,
    local_folder,
)
from meanflow_tune.remote.reading import fetch_file
from meanflow_tune.urls import hide_password


def storage_path(text: str | Path, purpose: str = "read") -> Path:
    """The folder that `--storage` names, or that of this host for a copy of a URL's.

    Raises UnusableRemote.
    """
    if not is_remote(text):
        return Path(text).expanduser().absolute()
    try:
        return local_folder(str(text), purpose)
    except OSError as error:
        raise UnusableRemote(
            f"{hide_password(str(text))}: no folder can hold its local copy ({error}); name another one by"
            f" {CACHE}"
        ) from None


def file_or_url(text: str) -> Path:
    """The path of a file, or of the local copy of one at a URL; a converter for the command line."""
    if not is_remote(text):
        return Path(text)
    try:
        return fetch_file(text)
    except UnusableRemote as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def local_path(text: str) -> Path:
    """A path of this host; a converter for the command line that refuses URLs."""
    if is_remote(text):
        raise argparse.ArgumentTypeError(
            f"must be a path of this host, not the URL {hide_password(text)}"
        )
    return Path(text)
