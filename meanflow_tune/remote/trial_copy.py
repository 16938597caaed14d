"""A trial's folder on the host that trains it: fetched before a job, sent before each report.

Exactly-once resume needs no more than that order: what a report tells the search is in the storage by
then, so that a host may vanish at any moment. Of a checkpoint the file comes first and its checksum last,
as on a disk.
"""

import logging
import shutil
import time
from pathlib import Path

from meanflow_tune.checksums import digest
from meanflow_tune.remote.object_store import ObjectStore, StoredFile

CHECKPOINTS = "checkpoints"
LEASE = "lease.json"

log = logging.getLogger(__name__)


def is_temporary(name: str) -> bool:
    """Whether a file is a lock, or the temporary file of a write."""
    last = name.rpartition("/")[2]
    return last.endswith(".lock") or (last.startswith(".") and last.endswith(".tmp"))


def in_checkpoints(name: str) -> bool:
    """Whether a file is a checkpoint or its checksum."""
    return name.rpartition("/")[0].endswith(CHECKPOINTS)


def is_current(path: Path, stored: StoredFile) -> bool:
    """Whether a local file is what the storage has: of the same size, and not written before that."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return found.st_size == stored.size and found.st_mtime >= stored.changed


class TrialCopy:
    """The local copy of one trial's folder. root: of the storage's local copy, above `folder`.

    sent: bytes, and seconds that it took.
    """

    def __init__(self, store: ObjectStore, root: Path, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._name = folder.relative_to(root).as_posix()
        self._there: dict[str, tuple[int, int]] = {}  # name -> size and mtime of what was sent
        self._stored: set[str] = set()  # checkpoints and checksums in the storage
        self.sent, self.seconds = 0, 0.0

    def fetch(self) -> None:
        """Make the folder what the storage has of it, with the newest whole checkpoint of each run."""
        files = {file.name: file for file in self._store.files(self._name)}
        for path in self._local():
            if self._named(path) not in files:
                path.unlink(missing_ok=True)  # of a study of the same name, or never reported
        for file in files.values():
            if not in_checkpoints(file.name) and not is_temporary(file.name):
                self._fetch(file)
        self._fetch_newest(files)

    def fetch_checkpoints(self) -> None:
        """Fetch the newest whole checkpoint of each run, and nothing else."""
        self._fetch_newest({file.name: file for file in self._store.files(self._name)})

    def _fetch_newest(self, files: dict[str, StoredFile]) -> None:
        self._stored = {name for name in files if in_checkpoints(name)}
        for checkpoints in {name.rpartition("/")[0] for name in self._stored}:
            self._fetch_checkpoint(checkpoints, files)

    def _fetch_checkpoint(self, folder: str, files: dict[str, StoredFile]) -> None:
        """The newest checkpoint whose checksum is right; those that are damaged are passed over."""
        for name in sorted((n for n in files if n.startswith(f"{folder}/")), reverse=True):
            checksum = name.removesuffix(".pt") + ".sha256"
            if not name.endswith(".pt") or checksum not in files:
                continue
            path, wanted = self._place(name), self._fetch(files[checksum]).read_bytes().strip()
            # Large, and of the same size whatever is in it: only its checksum tells whether it is here.
            if not _has(path, wanted):
                self._store.fetch(name, path)
            if _has(path, wanted):
                self._there[name] = _state(path)
                return
            log.warning(
                "checkpoint %s in %s is damaged; taking the one before", name, self._store.shown
            )
            path.unlink()

    def _fetch(self, file: StoredFile) -> Path:
        path = self._place(file.name)
        if not is_current(path, file):
            self._store.fetch(file.name, path)
        self._there[file.name] = _state(path)
        return path

    def send(self) -> None:
        """Send what is new or changed; checkpoints before their checksums, and both after all others."""
        begun = time.monotonic()
        paths = {self._named(path): path for path in self._local() if not is_temporary(path.name)}

        def order(name: str) -> tuple[int, str]:
            return (0 if not in_checkpoints(name) else 1 if name.endswith(".pt") else 2), name

        for name in sorted(paths, key=order):
            state = _state(paths[name])
            if self._there.get(name) == state:
                continue
            if in_checkpoints(name) and name.endswith(".pt"):
                self._store.delete(name.removesuffix(".pt") + ".sha256")
            self.sent += self._store.send(paths[name], name)
            self._there[name] = state
            if in_checkpoints(name):
                self._stored.add(name)
        # Checkpoints that were thinned out here; first the checksum, as there.
        for name in sorted(self._stored - paths.keys(), reverse=True):
            if self._folder.is_dir():
                self._store.delete(name)
                self._stored.discard(name)
        self.seconds += time.monotonic() - begun

    def clear(self, whole: bool) -> None:
        """Free the disk once all is sent: of checkpoints, or of the whole folder."""
        if whole:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        for checkpoints in list(self._folder.rglob(CHECKPOINTS)):
            shutil.rmtree(checkpoints, ignore_errors=True)

    def _place(self, name: str) -> Path:
        return self._folder / name[len(self._name) + 1 :]

    def _local(self) -> list[Path]:
        return [path for path in self._folder.rglob("*") if path.is_file()]

    def _named(self, path: Path) -> str:
        return f"{self._name}/{path.relative_to(self._folder).as_posix()}"


def _has(path: Path, checksum: bytes) -> bool:
    return path.is_file() and digest(path).encode() == checksum


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
