"""How many bytes a search writes below its storage folder, from the sizes of its files."""

from collections.abc import Sequence
from dataclasses import dataclass

from meanflow_tune.files import sqlite_path
from meanflow_tune.plan.calibration import Sizes
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.training.checkpoints import KEPT

ANSWER = 3  # trials that keep everything: the reference, the leader, the best proposed


@dataclass(frozen=True)
class DiskForecast:
    """What is on disk just before the end of a search, when there is most.

    reach: expected number of trials at each rung; runs: further whole runs, of repeats and confirmation;
    slots: trials at once.
    """

    request: SearchRequest
    sizes: Sizes
    reach: Sequence[float]
    runs: float
    slots: int

    @property
    def kept(self) -> int:
        """Checkpoints of a trial that runs."""
        return min(KEPT, len(self.reach))

    @property
    def copies(self) -> int:
        """Of a trial's model: its own, and that of MLflow where it keeps its artifacts in the storage."""
        local = (
            self.request.tracking_uri is None or sqlite_path(self.request.tracking_uri) is not None
        )
        logged = self.request.best_models is None
        return 2 if local and logged else 1

    @property
    def trial(self) -> float:
        """Of one whole trial while it runs."""
        sizes = self.sizes
        samples = len(self.reach) * sizes.samples
        return self.kept * sizes.checkpoint + samples + self.copies * sizes.model

    @property
    def checkpoints(self) -> float:
        """Those that `--keep-checkpoints` leaves, and those of the trials that run."""
        trials = self.reach[0]
        if self.request.keep_checkpoints == "all":
            return (sum(self.reach[: self.kept]) + self.kept * self.runs) * self.sizes.checkpoint
        whole = min(self.slots + ANSWER, trials)
        best = self.request.best_checkpoints
        others = trials + self.runs - whole
        return (whole * self.kept + (others if best is None else min(best, others))) * (
            self.sizes.checkpoint
        )

    @property
    def outputs(self) -> float:
        """Samples, which are removed at the end only, and models."""
        samples = (sum(self.reach) + self.runs) * self.sizes.samples
        return samples + self.copies * (self.reach[-1] + self.runs) * self.sizes.model

    @property
    def total(self) -> float:
        return self.checkpoints + self.outputs

    def left(self, ended: int) -> float:
        """Of the total, what is still to be written after `ended` trials and runs."""
        whole = self.reach[0] + self.runs
        return self.total * max(0.0, 1.0 - ended / whole) if whole else 0.0
