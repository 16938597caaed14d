"""What the samples of a trial were compared with: the teacher's own figures, the data and the noise."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from meanflow_tune.arrays import read_arrays
from meanflow_tune.checksums import Damaged
from meanflow_tune.records import TrialRecord
from meanflow_tune.search.analysis.plausibility import Limits

log = logging.getLogger(__name__)
EULER, NOISE = "the teacher's own Euler steps", "noise"
CLEARLY = 2.0
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Quality:
    """Metrics in a trial's last file of samples; all are empty where that has none.

    euler: of the teacher's Euler steps, by `name@nfe`; held_out: of `teacher` (the end of its ODE),
    `data` (training data) and `noise` against held-out data, by name.
    """

    euler: Figures = field(default_factory=dict)
    held_out: Mapping[str, Figures] = field(default_factory=dict)
    nfe: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.euler or self.held_out)

    @property
    def limits(self) -> Limits:
        """What any trained student should be better than."""
        noise = self.held_out.get("noise", {})
        at_each = {f"{name}@{nfe}": x for name, x in noise.items() for nfe in self.nfe}
        return {EULER: self._telling(self.euler), NOISE: self._telling(at_each)}

    @property
    def teacher_is_noise(self) -> bool:
        """Whether no metric finds the end of the teacher's ODE closer to the held-out data than noise."""
        teacher, noise = (
            self.held_out.get("teacher", {}),
            self._telling(self.held_out.get("noise", {})),
        )
        common = [name for name in noise if name in teacher]
        return bool(common) and all(teacher[name] >= 0.9 * noise[name] for name in common)

    def _telling(self, figures: Figures) -> dict[str, float]:
        """Those that are clearly worse than real data: a good student cannot be worse than they are.

        The first two moments of eight Gaussians, for example, are almost those of noise.
        """
        data = self.held_out.get("data", {})
        return {
            name: value
            for name, value in figures.items()
            if math.isfinite(value) and value >= CLEARLY * data.get(name.partition("@")[0], 0.0)
        }


def quality_of(record: TrialRecord) -> Quality:
    """The figures of a trial; empty where its samples were deleted or never made."""
    source = record.reports[-1].artifacts.get("samples") if record.reports else None
    if source is None:
        return Quality()
    try:
        return _read(source, Path(source).stat().st_mtime_ns)
    except FileNotFoundError:
        return Quality()
    except OSError as error:
        log.warning("%s cannot be read: %s", source, error)
        return Quality()


@cache
def _read(source: str, changed: int) -> Quality:
    """Cached until the file changes, because a status asks for those of all trials every second."""
    try:
        return _quality_in(source)
    except (Damaged, KeyError, ValueError) as error:
        log.warning("%s cannot be read: %s", source, error)
        return Quality()


def _quality_in(source: str) -> Quality:
    arrays = read_arrays(Path(source))
    euler = json.loads(str(arrays["teacher_metrics"]))
    # Files of earlier revisions have no such figures.
    known = "held_out_metrics" in arrays
    held_out = json.loads(str(arrays["held_out_metrics"])) if known else {}
    names = [name for name in arrays if name.startswith("student@")]
    return Quality(euler, held_out, tuple(sorted(int(n.partition("@")[2]) for n in names)))
