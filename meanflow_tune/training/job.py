"""Serve one job in a slot: from a job's data to an outcome. The slot keeps `Resources` between jobs."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from meanflow_tune.config import TrialConfig
from meanflow_tune.files import write_atomic
from meanflow_tune.records import Job, Outcome, Report
from meanflow_tune.student_files import export_student
from meanflow_tune.training.disk_wait import Interrupted, write_or_wait
from meanflow_tune.training.loop import train
from meanflow_tune.training.memory import memory_shortage
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World

log = logging.getLogger(__name__)


class JobSink(Protocol):
    """The slot's side of a job; reports are plain data here."""

    def report(self, report: dict[str, Any]) -> bool: ...
    def tick(self, progress: dict[str, Any]) -> None: ...
    def stopping(self) -> bool: ...


class Fenced(RuntimeError):
    """Another driver has taken the study over; this worker must not write there any more."""


class Unusable(Exception):
    """What all trials of a study share cannot be made on this host."""


class _Sink:
    def __init__(self, inner: JobSink) -> None:
        self._inner = inner
        self.tick, self.stopping = inner.tick, inner.stopping

    def report(self, report: Report) -> bool:
        return self._inner.report(report.to_dict())


def check_fence(folder: Path, epoch: int) -> None:
    """Raise Fenced when the lease of the study that owns `folder` has a newer epoch than `epoch`."""
    for parent in folder.parents:
        lease = parent / "lease.json"
        if lease.is_file():
            now = int(json.loads(lease.read_text())["epoch"])
            if now > epoch:
                raise Fenced(f"{lease} has epoch {now}; this worker's is {epoch}")
            return


_resources: dict[tuple[str, World], Resources] = {}


def serve_job(
    job: dict[str, Any], rank: int, size: int, device: str, sink: JobSink, *, cache: str
) -> dict[str, Any]:
    """Run one job to its end on this rank; every rank of the slot calls it with the same job.

    `cache` is the folder of teachers (`<storage>/teachers`). Returns an Outcome as data. The trained
    student of a completed trial is left in `<job folder>/model`. Where the decision at the last rung
    asks for it, the job's repeats follow, in `<job folder>/repeats/K`; a repeat that diverges ends
    the trial so, with the seed as the reason: a configuration that trains on some seeds only must not
    be taken for the best.
    """
    this, world = Job(**job), World(rank, size, device)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    config, folder, wrapped = TrialConfig.from_dict(this.config), Path(this.folder), _Sink(sink)
    resources = _resources.setdefault((cache, world), Resources(Path(cache), world))
    try:
        outcome, run = _train(this, config, folder, wrapped, resources)
        for repeat, seed in enumerate(this.repeats, start=1):
            if outcome.status != "completed" or not run.go_on:
                break
            again = config.model_copy(update={"seed": seed})
            place = folder / "repeats" / str(repeat)
            outcome, run = _train(this, again, place, wrapped, resources, repeat)
            if outcome.status != "completed":
                reason = f"repeat {repeat}, on seed {seed}: {outcome.reason}"
                outcome = replace(outcome, reason=reason)
    except Interrupted as error:
        outcome = Outcome("running", str(error) or "interrupted")
    return outcome.to_dict()


def _train(
    job: Job, config: TrialConfig, folder: Path, sink: _Sink, resources: Resources, repeat: int = 0
) -> tuple[Outcome, Run]:
    """One whole run in `folder`; the student of a trial's own run, once completed, is left there."""
    world = resources.world

    def fence() -> None:
        check_fence(folder, job.epoch)

    def write(what: Callable[[], object]) -> None:
        def fenced() -> None:
            fence()
            what()

        write_or_wait(world, sink, fenced, folder)

    # What runs is on record before its first step.
    text = json.dumps(config.to_dict(), indent=1)
    write(lambda: write_atomic(folder / "config.json", text))
    try:
        data = resources.data(config)
        teacher = resources.teacher(config, sink)
        evaluator = resources.evaluator(config, sink)
    except Exception as error:
        if memory_shortage(error) is None:
            raise
        # No fault of this trial's settings, so not its outcome: every trial would end like this.
        raise Unusable(f"data, teacher and evaluation do not fit into memory: {error}") from None
    run = Run.start(config, world, data, teacher, resources.initial(config))
    phase = f"repeat {repeat}" if repeat else "train"
    outcome = train(
        run, folder, sink, evaluator, fence=fence, warn=log.warning, phase=phase, repeat=repeat
    )
    if outcome.status == "completed" and not repeat:
        state, shape, classes = run.averaged_state(), run.data.shape, run.data.classes
        write(lambda: export_student(folder / "model", job.config, state, shape, classes))
    return outcome, run
