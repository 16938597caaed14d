"""What the layers tell each other about trials: plain data and protocols, standard library only."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

# paused: stopped at a rung with its checkpoint kept, until a promotion hands it out again.
# diverged and out_of_memory are infeasible: the sampler learns by how much (`Outcome.violation`).
Status = Literal["running", "paused", "completed", "pruned", "diverged", "out_of_memory", "failed"]
# Phases of a tick: a trial that trains the shared teacher, and one that waits until another has.
TEACHER, NO_TEACHER = "teacher", "waiting for the teacher"
NO_ANSWER = "waiting for the storage"
INFEASIBLE: tuple[Status, ...] = ("diverged", "out_of_memory")


@dataclass(frozen=True)
class _Plain:
    """What crosses processes and disks as JSON."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Job(_Plain):
    """One trial to run: its number in the study, its resolved configuration and its folder.

    attempt counts how often the trial was handed out before. epoch: of the driver's lease; a worker
    that sees a newer one in the study's lease stops writing. repeats: seeds of further whole runs,
    which follow if the decision at the last rung asks for them.
    """

    study: str
    number: int
    config: dict[str, Any]
    folder: str
    attempt: int
    epoch: int
    repeats: tuple[int, ...] = ()


@dataclass(frozen=True)
class Report(_Plain):
    """A trial's report at a rung. images: seen so far (the resource of the search).

    metrics: names carry the NFE, `teacher_gap@1`; losses are called `loss/...` and are never an
    objective. cost: `cpu_seconds` or `gpu_seconds`, `step_ms` and so on, cumulative over attempts.
    artifacts: name -> path of files made at this rung (sample grids). time: unix seconds when it was
    made; a replay keeps it. repeat: 0 for the trial's own run, k for the end of its k-th repeat on
    another seed.
    """

    images: int
    metrics: dict[str, float]
    cost: dict[str, float]
    time: float
    artifacts: dict[str, str] = field(default_factory=dict)
    repeat: int = 0


@dataclass(frozen=True)
class Decision(_Plain):
    """Whether a trial continues after a rung, and why, in one sentence for a user."""

    go_on: bool
    reason: str


@dataclass(frozen=True)
class Outcome(_Plain):
    """How a trial ended. reason: one line for a user; deterministic: a retry would fail, too.

    violation: by how much an infeasible trial failed, above 0; 1 where that is unknown.
    """

    status: Status
    reason: str = ""
    deterministic: bool = False
    violation: float = 0.0


@dataclass(frozen=True)
class TrialRecord:
    """A trial of a study: the only source of tables, pictures, MLflow and the live view.

    value: the single objective at the last rung, None before the first rung and for several
    objectives; values: all objectives; baseline: its name, None for any other trial;
    reports: one per rung of the trial's own run, ascending in images; rung_values, decisions: the
    objectives, and the reason of the decision, at each of these rungs; repeats: the last reports of
    its repeats on other seeds; started, ended: unix seconds; protected: drawn to be never stopped, so
    that rungs can be audited; bracket: of successive halving, from 0; terms: index of the manifest's
    terms under which it was made; enqueued: a user asked for it.
    """

    study: str
    number: int
    status: Status
    params: dict[str, Any]
    config: dict[str, Any]
    value: float | None = None
    baseline: str | None = None
    reports: tuple[Report, ...] = ()
    reason: str = ""
    attempt: int = 0
    folder: str = ""
    started: float | None = None
    ended: float | None = None
    values: tuple[float, ...] = ()
    rung_values: tuple[tuple[float, ...], ...] = ()
    decisions: tuple[str, ...] = ()
    repeats: tuple[Report, ...] = ()
    protected: bool = False
    bracket: int = 0
    terms: int = 0
    enqueued: bool = False

    @property
    def what(self) -> str:
        """Where the trial comes from: the name of a baseline, `enqueued`, or `proposed` by the sampler."""
        return self.baseline or ("enqueued" if self.enqueued else "proposed")


class Reporter(Protocol):
    """How a running trial talks to the search. Of other ranks, only `stopping` counts."""

    def report(self, report: Report) -> bool:
        """Hand over a rung and wait for the decision: whether to continue.

        At the last rung True means: run the repeats. A resumed trial hands its earlier reports over
        again.
        """

    def tick(self, progress: dict[str, Any]) -> None:
        """Progress for a live view; must not block, and may be dropped."""

    def fault(self, cause: str, action: str) -> None:
        """Something is damaged, and what is done about it: one line for a user. Only rank 0's counts."""

    def stopping(self) -> bool:
        """Whether to save and end soon, with an outcome of status `running`. Ranks may differ."""


@dataclass(frozen=True)
class SilentReporter:
    """Keeps reports to itself and always continues; progress, faults and stops are `inner`'s, if any."""

    inner: Reporter | None = None

    def report(self, report: Report) -> bool:
        return True

    def tick(self, progress: dict[str, Any]) -> None:
        if self.inner is not None:
            self.inner.tick(progress)

    def fault(self, cause: str, action: str) -> None:
        if self.inner is not None:
            self.inner.fault(cause, action)

    def stopping(self) -> bool:
        return self.inner is not None and self.inner.stopping()


class RunJob(Protocol):
    """What a slot does with a job; every rank of the slot calls it with the same job."""

    def __call__(
        self, job: Job, rank: int, size: int, device: str, reporter: Reporter
    ) -> Outcome: ...


class Director(Protocol):
    """Decides what runs. All methods are called in the driver's main thread, one at a time.

    An exception of any of them ends the search with that exception.
    """

    def next_job(self) -> Job | None:
        """The next job, or None when there is none now."""

    def exhausted(self) -> bool:
        """Whether `next_job` will never return a job again (asked only while nothing runs)."""

    def on_report(self, number: int, report: Report) -> bool:
        """Decide at a rung whether the trial continues. Idempotent by repeat and images.

        At the last rung of the trial's own run True means: run the repeats that the job names; at
        the end of a repeat: run the next one.
        """

    def on_end(self, number: int, outcome: Outcome) -> None:
        """How a trial ended. Status `running`: it was interrupted and can be resumed."""

    def on_tick(self, snapshot: dict[str, Any]) -> None:
        """About once a second: the broker's snapshot, for a live view."""

    def to_stop(self) -> Collection[int]:
        """Asked after each tick: the running trials that are to end at a safe point, each until it has."""
