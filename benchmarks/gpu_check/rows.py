"""What a stage measures: rows of one table, and stages by name. Standard library only."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

TIME_LIMIT = 720.0  # seconds of all stages together


@dataclass(frozen=True)
class Stage:
    """name: as `--only` takes it; about: what it measures; limit: seconds on one GPU."""

    name: str
    about: str
    limit: float


STAGES = (
    Stage("checks", "what the tests marked `gpu` check", 90.0),
    Stage("dit", "derivatives of a DiT-B/2, uncompiled, against torch.func.jvp", 100.0),
    Stage("unet", "derivatives of a U-Net for CIFAR-10, uncompiled, against torch.func.jvp", 100.0),
    Stage("synchronisations", "waits for the GPU per training step", 50.0),
    Stage("steps", "images per second of training steps", 180.0),
    Stage("compiled", "the same derivatives, compiled", 180.0),
)


@dataclass(frozen=True)
class Row:
    """One line of the table; None where a column has no meaning.

    forwards: time in plain forwards of the same network and precision; milliseconds: median; mib: peak beyond
    what was allocated before; error: the largest, relative to float64; against_jvp: time over that of the
    same by torch.func.jvp; count: waits per step; failed: a check that did not hold, or what could not run.
    """

    case: str
    network: str = ""
    precision: str = ""
    forwards: float | None = None
    milliseconds: float | None = None
    images_per_second: float | None = None
    mib: float | None = None
    error: float | None = None
    against_jvp: float | None = None
    count: float | None = None
    note: str = ""
    failed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Without what is empty."""
        return {
            name: value for name, value in asdict(self).items() if value not in (None, "", False)
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Row":
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


Emit = Callable[[Row], None]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """Where a stage runs and whom it tells: each row as soon as it is known, since the stage may be ended.

    device: "cuda" or "cpu"; on a processor everything is small and TF32 is left out.
    """

    device: str
    emit: Emit
    progress: Progress

    @property
    def small(self) -> bool:
        return self.device == "cpu"

    @property
    def precisions(self) -> tuple[str, ...]:
        return ("float32", "bfloat16") if self.small else ("float32", "tf32", "bfloat16")

    def attempt(self, row: Row, work: Callable[[], None]) -> None:
        """Run `work`; where it raises, emit `row` with the error, and go on to what comes next."""
        try:
            work()
        except Exception as error:  # of any library: the next measurement is independent of it
            lines = str(error).strip().splitlines() or [""]
            note = f"{type(error).__name__}: {lines[0]}"[:200]
            self.emit(Row(row.case, row.network, row.precision, note=note, failed=True))
