"""Waiting for the lease of a holder that may be dead, on another host, until its silence shows it.

Only heartbeats tell whether a process elsewhere lives. It counts as dead when the clock of the file
system, or of the database, says that the last one is STALE_SECONDS old, and when this process has heard
none for a while by its own monotonic clock: a file server that comes back after a pause, or a clock that
jumps, makes every heartbeat look old at first.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path

from meanflow_tune.search.errors import Holder, StudyInUse
from meanflow_tune.search.store.database_lease import AnyLease, acquire_lease
from meanflow_tune.search.store.lease import Beat, holder_elsewhere

STALE_SECONDS = 30.0
BEATS = 5  # per STALE_SECONDS, of a live holder
LEAST_BEATS = 1.5  # watched for even if the last heartbeat is old already
TAKE_OVER_BEATS = 3  # that must be missed for --take-over
POLL_SECONDS = 0.5


def wait_for_lease(
    folder: Path,
    study: str,
    url: str | None,
    waiting: Callable[[Holder, float], None],
    take_over: bool = False,
    stale_after: float = STALE_SECONDS,
) -> AnyLease:
    """`acquire_lease`, which first waits where the holder may be dead.

    waiting: called about every POLL_SECONDS with the holder and the seconds until its lease is free if it
    stays silent. take_over: take the lease after TAKE_OVER_BEATS missed heartbeats.

    Raises:
        StudyInUse: a live driver holds it: its process is here, or it was heard.
        StorageError: the folder or the database cannot be written or locked.
    """
    watch = _Watch(stale_after, take_over)
    while True:
        error: StudyInUse | None = None
        holder = holder_elsewhere(folder, stale_after)
        left = watch.left(holder) if holder is not None else 0.0
        if holder is None or left <= 0.0:
            try:
                return acquire_lease(folder, study, url, stale_after, watch.silent)
            except StudyInUse as refusal:
                if refusal.holder is None:
                    raise
                error, holder = refusal, refusal.holder
                left = watch.left(holder)
        assert holder is not None
        if watch.heard(holder):
            raise error or _in_use(folder, holder)
        waiting(holder, max(left, 0.0))
        time.sleep(min(POLL_SECONDS, max(left, stale_after / 100)))


class _Watch:
    """What this process has heard of the holders in a folder and in a database."""

    def __init__(self, stale_after: float, take_over: bool) -> None:
        interval = stale_after / BEATS
        self._least = LEAST_BEATS * interval
        self._enough = TAKE_OVER_BEATS * interval if take_over else stale_after
        self._first: dict[object, tuple[Beat, float]] = {}
        self.silent: Collection[Beat] = ()

    def left(self, holder: Holder) -> float:
        """Seconds until the holder counts as dead; 0 once it does."""
        first, since = self._first.setdefault(holder.beat[0], (holder.beat, time.monotonic()))
        watched = time.monotonic() - since
        if watched >= self._enough and first == holder.beat:
            self.silent = [*self.silent, holder.beat]
            return 0.0
        return max(self._least - watched, min(holder.free_in, self._enough - watched))

    def heard(self, holder: Holder) -> bool:
        """Whether there was a heartbeat since the first look, by which the holder lives."""
        return self._first[holder.beat[0]][0] != holder.beat


def _in_use(folder: Path, holder: Holder) -> StudyInUse:
    return StudyInUse(
        f"study folder {folder} is in use by process {holder.pid} on host {holder.host}, whose heartbeat"
        " was heard just now; stop that process, wait for it, or give the search another study name",
        holder,
    )
