"""SearchRequest: the resolved command line of a search, and the errors that end one with a clear line."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from meanflow_tune.settings import Settings

Count = Annotated[int, Field(ge=1)]

EXIT_OK, EXIT_USAGE, EXIT_ALL_FAILED, EXIT_IN_USE, EXIT_UNUSABLE, EXIT_INTERRUPTED = (
    0,
    2,
    3,
    4,
    5,
    130,
)

# The same path as a whole search, small enough for a first look.
SMOKE_SETTINGS = (
    "teacher.budget.images=60000",
    "teacher.budget.global_batch=128",
    "budget.images=12800",
    "budget.global_batch=128",
    "budget.rungs=[0.5, 1.0]",
    "evaluation.samples=256",
)


class SearchRequest(Settings):
    """What to search, how much, and where. Names are those of the command line.

    time_budget: seconds over all drivers; grace: images before which no trial is stopped; protect: the
    share of proposed trials that are never stopped; repeats: further seeds of survivors.
    """

    space: str = "second_order"
    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    trials: Count
    storage: Path
    study_storage: str | None = None
    tracking_uri: str | None = None
    resume: Literal["auto", "must", "fresh"] = "auto"
    cluster: str | None = None
    workers_per_trial: Count = 1
    max_concurrent: Count | None = None
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    sampler: Literal["tpe", "gp", "cmaes", "nsgaii", "qmc", "random"] = "tpe"
    startup_trials: Count = 8
    objectives: str | None = None
    scheduler: Literal["asha", "median", "none"] = "asha"
    reduction: Annotated[float, Field(gt=1.0, le=100.0)] = 4.0
    grace: Annotated[int, Field(ge=0)] = 0
    brackets: Annotated[int, Field(ge=1, le=8)] = 1
    promotion: bool = True
    protect: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    seed: Annotated[int, Field(ge=0)] = 0
    repeats: Annotated[int, Field(ge=0, le=16)] = 0
    confirm: Annotated[int, Field(ge=0, le=64)] = 1
    confirm_seeds: Annotated[int, Field(ge=0, le=16)] = 2
    max_failures: Count = 3
    time_budget: Annotated[float, Field(gt=0.0)] | None = None
    accept_changes: bool = False
    import_study: str | None = None
    settings: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.storage / self.study

    @property
    def teachers(self) -> Path:
        """Cache of teachers, shared by all studies of the storage."""
        return self.storage / "teachers"

    @property
    def mlflow_uri(self) -> str:
        """The tracking server given, or the storage's own SQLite file."""
        return self.tracking_uri or f"sqlite:///{self.storage / 'mlflow.db'}"


class UserError(Exception):
    """A mistake or an obstacle that a person can mend: one line, and the exit status."""

    def __init__(self, message: str, status: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.status = status


def usable_folder(path: Path) -> Path:
    """`path` made and absolute. Raises UserError (5) with the reason where it cannot be written."""
    path = path.expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--storage {path}: cannot be written ({error.strerror or error}); name a folder that can.",
            EXIT_UNUSABLE,
        ) from None
    return path
