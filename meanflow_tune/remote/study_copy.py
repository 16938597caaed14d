"""A study's folder on the driver's host, kept equal to that in an object store.

The study itself is in a database, so that what is lost of the folder with a host, at most the changes of
some seconds, is made again from there by the next driver. A driver that finds that another host drove the
study since replaces its copy.
"""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from meanflow_tune.files import OnlyShown
from meanflow_tune.remote.location import storage_of
from meanflow_tune.remote.object_store import ObjectStore
from meanflow_tune.remote.trial_copy import (
    LEASE,
    TrialCopy,
    in_checkpoints,
    is_current,
    is_temporary,
)
from meanflow_tune.search.errors import LeaseLost

PAUSE_SECONDS = 3.0
LOCK = "lease.lock"
MANIFEST = "manifest.json"
# What `--status` shows; everything else of it is in the database.
STATUS_FILES = (MANIFEST, "status.json", LEASE)

log = logging.getLogger(__name__)


class StudyCopy:
    """The local copy of one study. Made before the lease is taken, which `begin` then follows.

    root: of the storage's local copy; fence: raises once another driver has taken the study over; say:
    gets one line where the storage does not answer.
    """

    def __init__(self, store: ObjectStore, root: Path, study: str) -> None:
        self.store, self._study, self.folder = store, study, root / study
        self._root = root
        self._before = _epoch(_read(self.folder / LEASE))
        self._states: dict[str, tuple[int, int]] = {}  # name -> size and mtime of what is in both
        self._stop = threading.Event()
        self._sending = threading.Lock()
        self._fence: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None
        self.sent = 0  # bytes

    def fetch_manifest(self) -> None:
        """Before the lease, since it decides whether there is a study to resume."""
        name = f"{self._study}/{MANIFEST}"
        if self.store.kind(name) == "file":
            self.store.fetch(name, self.folder / MANIFEST)

    def begin(self, fence: Callable[[], None], say: Callable[[str], None]) -> None:
        """Fetch what another host did, name this driver's epoch to workers, and send from now on."""
        self._fence = fence
        theirs = _epoch(self.store.read(f"{self._study}/{LEASE}"))
        if theirs != self._before:
            self._replace()
        self._send([self.folder / LEASE])
        shown = OnlyShown(say, (LeaseLost,))
        what = f"copy the study's files to {self.store.shown}"

        def run() -> None:
            pause = PAUSE_SECONDS
            while not self._stop.wait(pause):
                began = time.thread_time()
                try:
                    shown(what, self.send, None)
                except LeaseLost:
                    return
                # Looking at all files of a large study takes a while; not more than a tenth of the time.
                pause = max(PAUSE_SECONDS, 10.0 * (time.thread_time() - began))

        self._thread = threading.Thread(target=run, name="study-copy", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Send the rest. Raises OSError where the storage does not answer."""
        self.stop()
        self.send()

    def release(self) -> None:
        """Tell readers of the storage that no driver is at work any more.

        While the lease is held, so that it is no other driver's that is changed. Raises OSError, LeaseLost.
        """
        held = json.loads((self.folder / LEASE).read_text(encoding="utf-8"))
        self._fence()
        self.store.write(f"{self._study}/{LEASE}", json.dumps({**held, "pid": None}).encode())

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def send(self) -> None:
        """Send what changed since; checkpoints are sent by the workers. Raises LeaseLost."""
        self._fence()
        # Not by rglob, which fails where a worker removes a folder meanwhile.
        self._send(Path(at) / name for at, _, names in os.walk(self.folder) for name in names)

    def _send(self, paths: Iterable[Path]) -> None:
        with self._sending:
            for path in paths:
                name = path.relative_to(self._root).as_posix()
                if is_temporary(name) or in_checkpoints(name) or path.name == LOCK:
                    continue
                try:
                    state = _state(path)
                    if self._states.get(name) != state:
                        self.sent += self.store.send(path, name)
                        self._states[name] = state
                except FileNotFoundError:  # it was replaced or removed meanwhile
                    if path.exists():
                        raise

    def fetch_trial(self, folder: Path) -> None:
        """Fetch what a worker sent of a trial, but for checkpoints."""
        self._fetch(folder.relative_to(self._root).as_posix())

    def fetch_checkpoints(self, folder: Path) -> None:
        """Fetch the newest whole checkpoint of a trial, to export its student again."""
        TrialCopy(self.store, self._root, folder).fetch_checkpoints()

    def _fetch(self, name: str) -> None:
        for file in self.store.files(name):
            path = self._root / file.name
            if is_temporary(file.name) or in_checkpoints(file.name) or path.name in (LEASE, LOCK):
                continue
            if not is_current(path, file):
                self.store.fetch(file.name, path)
            self._states[file.name] = _state(path)

    def _replace(self) -> None:
        """Make the copy what the storage has; its lease is this driver's already."""
        for path in list(self.folder.iterdir()):
            if path.name not in (LEASE, LOCK):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._fetch(self._study)


def fetch_files(store: ObjectStore, root: Path, study: str, names: Iterable[str]) -> None:
    """Fetch these files of a study, as far as they exist, for a command that only reads."""
    for name in names:
        path = root / study / name
        if store.kind(f"{study}/{name}") == "file":
            store.fetch(f"{study}/{name}", path)
        else:
            path.unlink(missing_ok=True)


def fetch_study(store: ObjectStore, root: Path, study: str, models: bool = False) -> Path:
    """Fetch a study without its checkpoints, for a command that only reads; models: with its students."""
    for file in store.files(study):
        path = root / file.name
        model = "/model/" in file.name and not models
        if is_temporary(file.name) or in_checkpoints(file.name) or model or path.name == LOCK:
            continue
        if not is_current(path, file):
            store.fetch(file.name, path)
    return root / study


def delete_stored(folder: Path) -> None:
    """Delete a folder in the storage that it is a copy of, if it is one. Raises OSError."""
    found = storage_of(folder)
    if found is not None:
        ObjectStore(found[0]).delete_folder(folder.relative_to(found[1]).as_posix())


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _epoch(data: bytes | None) -> int | None:
    """Of a lease as a file; None without one, or where it is unreadable."""
    try:
        epoch: Any = json.loads(data or b"")["epoch"]
    except (ValueError, KeyError, TypeError):
        return None
    return epoch if isinstance(epoch, int) else None


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
