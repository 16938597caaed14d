"""Warns of a disk that will be full before the search has ended, from the files that it wrote so far."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from meanflow_tune.plan.calibration import Sizes
from meanflow_tune.plan.disk_forecast import DiskForecast
from meanflow_tune.plan.plan import Plan
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.forecast_tables import further_runs, ladder_of
from meanflow_tune.report.text import size

SECONDS = 30.0
MEASURED = 8  # trials whose files are measured
LOOKED_AT = 100  # last trials among which those are looked for
LEAST_SHARE, LEAST_BYTES = 0.05, 2**30  # the smaller of both is little, whatever is still needed


class DiskWatch:
    """say: gets a warning when it first holds; slots: trials at once."""

    def __init__(
        self,
        plan: Plan,
        say: Callable[[str], None],
        slots: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._say, self._slots, self._clock = plan, say, slots, clock
        self._looked: float | None = None
        self._lines: list[str] = []
        self._said = False
        self._reach: tuple[list[float], float] | None = None  # slow for many trials

    def look(self, records: Sequence[TrialRecord], confirmed: Sequence[TrialRecord]) -> list[str]:
        """The warnings that hold now. Raises OSError where the file system cannot be asked."""
        now = self._clock()
        if self._looked is None or now - self._looked >= SECONDS:
            self._looked = now
            text = self._warning(records, confirmed)
            self._lines = [text] if text else []
            if text and not self._said:
                self._said = True
                self._say(text)
        return self._lines

    def _warning(self, records: Sequence[TrialRecord], confirmed: Sequence[TrialRecord]) -> str:
        request = self._plan.request
        disk = shutil.disk_usage(request.storage)
        free = f"only {size(disk.free)} are free in {request.storage}"
        remedy = (
            "free some space, or let less stay by --keep-checkpoints, --keep-samples and --keep-models; on a "
            "full disk the search waits"
        )
        sizes = measured_sizes(records)
        if sizes is not None:
            if self._reach is None:
                self._reach = ladder_of(self._plan).reach, further_runs(self._plan)
            forecast = DiskForecast(request, sizes, *self._reach, self._slots())
            ended = sum(r.status not in ("running", "paused") for r in (*records, *confirmed))
            need = forecast.left(ended)
            if disk.free < need:
                return f"{free}, and the search may still write {size(need)}: {remedy}"
        if disk.free < min(LEAST_SHARE * disk.total, LEAST_BYTES):
            return f"{free}: {remedy}"
        return ""


def measured_sizes(records: Sequence[TrialRecord]) -> Sizes | None:
    """The largest files of the last trials that wrote a checkpoint; None where none has."""
    found = Sizes(0, 0, 0)
    measured = 0
    for record in reversed(records[-LOOKED_AT:]):
        if not record.folder or measured == MEASURED:
            continue
        folder = Path(record.folder)
        checkpoint = _largest(folder / "checkpoints", "*.pt")
        measured += checkpoint > 0
        found = Sizes(
            max(found.checkpoint, checkpoint),
            max(found.samples, _largest(folder / "samples", "*.npz")),
            max(found.model, sum(_sizes(folder / "model", "*"))),
        )
    return found if measured else None


def _largest(folder: Path, pattern: str) -> int:
    return max(_sizes(folder, pattern), default=0)


def _sizes(folder: Path, pattern: str) -> list[int]:
    """Of files that may be removed meanwhile."""
    found = []
    for path in folder.glob(pattern):
        try:
            found.append(path.stat().st_size)
        except OSError:
            continue
    return found
