"""What a slot does with a job whose study is in an object store.

The job itself works in the local copy; around it the trial's folder is fetched and sent, and the storage
is waited for while it does not answer, as a disk is while it is full.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import filelock

from meanflow_tune.checksums import checksum_file, digest, recorded
from meanflow_tune.files import write_atomic
from meanflow_tune.records import NO_ANSWER, Job, Outcome, Report, Reporter
from meanflow_tune.remote.object_store import ObjectStore, reason
from meanflow_tune.remote.trial_copy import LEASE, TrialCopy
from meanflow_tune.search.errors import LeaseLost
from meanflow_tune.training.job import run_job

T = TypeVar("T")
PAUSE_SECONDS = 2.0

log = logging.getLogger(__name__)


class StorageSilent(OSError):
    """The search stopped while a job waited for the storage; nothing was reported."""


@dataclass(frozen=True)
class Patience:
    """Repeats what the storage does not answer; raises StorageSilent when the search stops meanwhile."""

    store: ObjectStore
    reporter: Reporter

    def __call__(self, call: Callable[[], T]) -> T:
        told = False
        while True:
            try:
                return call()
            except OSError as error:
                if self.reporter.stopping():
                    why = f"{self.store.shown} does not answer ({reason(error)})"
                    raise StorageSilent(why) from error
                if not told:
                    told = True
                    why = f"{self.store.shown} does not answer ({reason(error)})"
                    log.warning("%s; trying again", why)
                    self.reporter.fault(why, "the trial waits for it, and loses nothing")
                self.reporter.tick({"phase": NO_ANSWER, "images": 0, "of": 0})
            time.sleep(PAUSE_SECONDS)


@dataclass(frozen=True)
class SendingReporter:
    """Sends a trial's folder before each report."""

    inner: Reporter
    send: Callable[[], None]

    def report(self, report: Report) -> bool:
        self.send()
        return self.inner.report(report)

    def tick(self, progress: dict[str, Any]) -> None:
        self.inner.tick(progress)

    def fault(self, cause: str, action: str) -> None:
        self.inner.fault(cause, action)

    def stopping(self) -> bool:
        return self.inner.stopping()


@dataclass(frozen=True)
class SharedObjects:
    """Teachers and classifiers in the storage: whoever is first wins. root: of the local copy."""

    store: ObjectStore
    root: Path
    patience: Callable[[Callable[[], None]], None]

    def fetch(self, path: Path) -> None:
        """Fetch a file that is missing here; one that is damaged in the storage is removed there."""
        if not path.is_file():
            self.patience(lambda: self._fetch(path))

    def send(self, path: Path) -> None:
        """Send a file, unless another host was faster: then take that one's."""
        self.patience(lambda: self._send(path))

    def _fetch(self, path: Path) -> None:
        name, checksum = self._name(path), checksum_file(path)
        if self.store.kind(name) != "file":
            return
        kept = self.store.read(self._name(checksum))
        # Several ranks of one host may fetch it at once.
        fetched = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self.store.fetch(name, fetched)
            if kept is not None and kept.split()[:1] != [digest(fetched).encode()]:
                log.warning("%s in %s is damaged; it is made again", name, self.store.shown)
                self.store.delete(name)
                return
            if kept is not None:
                write_atomic(checksum, kept.decode("ascii", "replace"))
            fetched.rename(path)
        finally:
            fetched.unlink(missing_ok=True)

    def _send(self, path: Path) -> None:
        name, checksum = self._name(path), checksum_file(path)
        if self.store.kind(name) == "file":
            kept = path.rename(path.with_name(f".{path.name}.made"))
            self._fetch(path)
            if path.is_file():
                kept.unlink()
                return
            kept.rename(path)
        if recorded(path) is not None:
            self.store.send(checksum, self._name(checksum))
        self.store.send(path, name)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


@dataclass(frozen=True)
class RemoteJobs:
    """What a slot does with a job of a study in an object store (a `RunJob`).

    root: the path of the local copy, the same on all hosts; cache: its folder of teachers.
    """

    url: str
    root: str
    cache: str
    system_metrics: bool

    def __call__(self, job: Job, rank: int, size: int, device: str, reporter: Reporter) -> Outcome:
        root, folder, store = Path(self.root), Path(job.folder), ObjectStore(self.url)
        patience, copy = Patience(store, reporter), TrialCopy(store, root, folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

        def send() -> None:
            patience(copy.send)

        def fence(folder: Path, epoch: int) -> None:
            patience(lambda: self.check_epoch(store, folder, epoch))

        # Held by rank 0 until it has sent everything, so that no rank of its host clears the folder before.
        sending = filelock.FileLock(folder.with_name(f"{folder.name}.sending.lock"))
        if rank == 0:
            sending.acquire()
        try:
            with filelock.FileLock(folder.with_name(f"{folder.name}.lock")):
                patience(copy.fetch)
            outcome = run_job(
                job,
                rank,
                size,
                device,
                SendingReporter(reporter, send),
                cache=self.cache,
                fence=fence,
                system_metrics=self.system_metrics,
                shared=SharedObjects(store, root, patience),
            )
            if rank == 0:
                send()
                self._clear(copy, folder)
                log.info("sent %d bytes of %s in %.1f s", copy.sent, folder, copy.seconds)
        except StorageSilent as error:
            return Outcome("running", str(error))
        finally:
            sending.release()
        if rank > 0:
            with suppress(filelock.Timeout), sending.acquire(timeout=0):
                self._clear(copy, folder)
        return outcome

    def _clear(self, copy: TrialCopy, folder: Path) -> None:
        """Bound the local copy. The driver's host keeps all but checkpoints, for its report."""
        study = Path(self.root) / folder.relative_to(self.root).parts[0]
        copy.clear(whole=not (study / LEASE).exists())

    def check_epoch(self, store: ObjectStore, folder: Path, epoch: int) -> None:
        """Raise LeaseLost unless `epoch` is still that of the study, by the storage's copy of its lease."""
        study = folder.relative_to(self.root).parts[0]
        data = store.read(f"{study}/{LEASE}")
        try:
            now = json.loads(data or b"")["epoch"]
        except (ValueError, KeyError, TypeError):
            now = None
        if now is None or now > epoch:
            raise LeaseLost(
                f"the lease of {store.shown}/{study} has epoch {now or 'unknown'}, but this job has"
                f" {epoch}: another driver has taken the study over"
            )
