"""The points of a training curve between two reports of a run: a JSON file per report, to be looked at."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from meanflow_tune.files import write_atomic

CURVE = "curve"  # name of the file among a report's artifacts, and of the folder of these files


@dataclass(frozen=True)
class CurvePoint:
    """An interval of some steps. images: seen at its end; time: unix seconds then; loss: mean over its
    steps and all ranks; learning_rate: of its last step; step_ms: wall-clock time per step.

    system: of rank 0's process and host, where that was asked for.
    """

    images: int
    time: float
    loss: float
    learning_rate: float
    step_ms: float
    system: dict[str, float] = field(default_factory=dict)


def write_curve(path: Path, points: Sequence[CurvePoint]) -> None:
    """Write the points of one report."""
    write_atomic(path, json.dumps([asdict(point) for point in points]))


def read_curve(path: Path) -> list[CurvePoint]:
    """The points of one report. Raises OSError, and ValueError where the file is damaged."""
    try:
        return [CurvePoint(**point) for point in json.loads(path.read_text())]
    except TypeError as error:
        raise ValueError(f"{path} is no curve: {error}") from None
