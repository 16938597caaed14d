"""Processor time of a process and all its descendants, including orphaned ones (Linux)."""

import contextlib
import os
import signal
import threading
from pathlib import Path
from types import TracebackType

# Seconds between samples; what a process does between its last sample and its end is lost.
PERIOD = 0.25
_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class Family:
    """Samples /proc periodically; a context manager.

    alive: pids of the processes seen in the last sample.

    `resource.getrusage` counts only children that were waited for, and Ray's processes wait for none.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._seconds: dict[tuple[int, int], float] = {}  # by pid and start, for pids are reused
        self.alive: set[int] = {root}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="processor time", daemon=True)

    def __enter__(self) -> "Family":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.kill()

    def seconds(self) -> float | None:
        """Processor seconds so far; None where there is no /proc."""
        self._look()
        with self._lock:
            return sum(self._seconds.values()) if self._seconds else None

    def kill(self) -> None:
        """Kill every process of the family that is left."""
        self._look()
        for pid in self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD):
            self._look()

    def _look(self) -> None:
        table = process_table()
        with self._lock:
            # A parent that has ended since the last sample still identifies its children.
            family = (self.alive & table.keys()) | ({self._root} & table.keys())
            known = {pid for pid, _ in self._seconds} | {self._root}
            grown = True
            while grown:
                more = {
                    pid
                    for pid, (parent, _, _) in table.items()
                    if pid not in family and (parent in family or parent in known)
                }
                grown = bool(more)
                family |= more
            for pid in family:
                _, start, seconds = table[pid]
                self._seconds[pid, start] = seconds
            self.alive = family


def process_table() -> dict[int, tuple[int, int, float]]:
    """pid -> parent, start in ticks since boot, processor seconds."""
    found = {}
    for entry in _PROC.iterdir() if _PROC.exists() else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                busy = (int(fields[11]) + int(fields[12])) / _TICKS
                found[int(entry.name)] = int(fields[1]), int(fields[19]), busy
    return found
