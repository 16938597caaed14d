"""Run one job: from its record to its outcome. The process keeps `Resources` between jobs."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from meanflow_tune.checksums import put_aside
from meanflow_tune.config import TrialConfig
from meanflow_tune.files import write_atomic
from meanflow_tune.records import Job, Outcome, Reporter
from meanflow_tune.student_files import export_student
from meanflow_tune.training.curve import no_system
from meanflow_tune.training.disk_wait import Interrupted, unfenced, write_or_wait
from meanflow_tune.training.loop import train
from meanflow_tune.training.memory import memory_shortage
from meanflow_tune.training.process.stopwatch import Stopwatch
from meanflow_tune.training.resources import Resources, SharedFiles, SharedFolder
from meanflow_tune.training.run import Run
from meanflow_tune.training.system_metrics import SystemSampler
from meanflow_tune.training.world import World

log = logging.getLogger(__name__)


class Unusable(Exception):
    """The data, teacher or evaluation that all trials of a study share do not fit on this host."""


_resources: dict[tuple[str, World], Resources] = {}


def data_fingerprint(config: dict[str, Any]) -> str:
    """Of the data set of a configuration, as it is on this host."""
    return TrialConfig.from_dict(config).data.load().fingerprint


def run_job(
    job: Job,
    rank: int,
    size: int,
    device: str,
    reporter: Reporter,
    *,
    cache: str,
    fence: Callable[[Path, int], None] | None = None,
    system_metrics: bool = False,
    shared: SharedFiles | None = None,
) -> Outcome:
    """Run one job to its end on this rank; every rank of the slot calls it with the same job.

    cache: the folder of teachers (`<storage>/teachers`). fence: called with the job's folder and epoch
    before each write, raises when another driver has taken the study over; None where there is no
    study. The trained student of a completed trial is left in `<job folder>/model`. system_metrics: add
    the use of this host to the training curves. shared: how
    teachers and classifiers reach hosts that do not see this disk.

    Where the decision at the last rung asks for them, the job's repeats follow, in
    `<job folder>/repeats/K`. A repeat that diverges ends the trial as diverged, with the seed in the
    reason: a configuration that trains on some seeds only must not become the best.

    Raises Unusable.
    """
    world, config = World(rank, size, device), TrialConfig.from_dict(job.config)
    folder = Path(job.folder)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    if config.compile == "auto" and rank == 0:
        log.info("compile 'auto' of %s: %s", job.folder, config.compile_choice)
    resources = _resources.setdefault((cache, world), Resources(Path(cache), world))
    resources.shared = shared or SharedFolder()
    check = unfenced if fence is None else partial(fence, folder, job.epoch)
    system = SystemSampler(device) if system_metrics else no_system
    given = reporter, resources, check, system
    try:
        if fence is not None:
            write_or_wait(
                world, reporter, folder, partial(_leave, folder, config, reporter), fence=check
            )
        outcome, run = _train(job, config, folder, *given)
        for repeat, seed in enumerate(job.repeats, start=1):
            if outcome.status != "completed" or not run.go_on:
                break
            again = config.model_copy(update={"seed": seed})
            place = folder / "repeats" / str(repeat)
            outcome, run = _train(job, again, place, *given, repeat)
            if outcome.status != "completed":
                reason = f"repeat {repeat}, on seed {seed}: {outcome.reason}"
                outcome = replace(outcome, reason=reason)
    except Interrupted as error:
        outcome = Outcome("running", str(error) or "interrupted")
    return outcome


def _leave(folder: Path, config: TrialConfig, reporter: Reporter) -> None:
    """Put a trial's folder aside where it is that of another trial.

    A study that was restored from a backup gives its later numbers a second time, and the files of the first
    time, which the backup did not know, would end each of those trials.
    """
    try:
        text = (folder / "config.json").read_text(encoding="utf-8")
        other = TrialConfig.from_dict(json.loads(text)) != config
    except (OSError, ValueError, TypeError, AttributeError):  # it says nothing
        return
    if other:
        kept = put_aside(folder, word="other")
        cause = (
            f"{folder} holds another trial of this number, which the study's storage does not know"
        )
        reporter.fault(cause, f"it is kept as {kept.name}, and the trial starts from zero images")


def _train(
    job: Job,
    config: TrialConfig,
    folder: Path,
    reporter: Reporter,
    resources: Resources,
    fence: Callable[[], None],
    system: Callable[[], dict[str, float]],
    repeat: int = 0,
) -> tuple[Outcome, Run]:
    """One whole run in `folder`; the student of a trial's own completed run is left there."""
    world = resources.world
    write = partial(write_or_wait, world, reporter, folder, fence=fence)
    text = json.dumps(config.to_dict(), indent=1)
    write(lambda: write_atomic(folder / "config.json", text))
    stopwatch = Stopwatch()
    try:
        data = resources.data(config)
        stopwatch.mark("data")
        teacher = resources.teacher(config, reporter)
        stopwatch.mark("teacher")
        evaluator = resources.evaluator(config, reporter)
        stopwatch.mark("evaluation")
    except Exception as error:
        if memory_shortage(error) is None:
            raise
        # Not the outcome of this trial's settings: every trial would end like this.
        raise Unusable(f"data, teacher and evaluation do not fit into memory: {error}") from None
    run = Run.start(config, world, data, teacher, resources.initial(config))
    stopwatch.mark("networks and state")
    stopwatch.log(f"trial {job.number}, rank {world.rank}")
    phase = f"repeat {repeat}" if repeat else "train"
    outcome = train(
        run,
        folder,
        reporter,
        evaluator,
        fence=fence,
        phase=phase,
        repeat=repeat,
        system=system,
    )
    if outcome.status == "completed" and not repeat:
        state, shape, classes = run.averaged_state(), data.shape, data.classes
        write(lambda: export_student(folder / "model", job.config, state, shape, classes))
    return outcome, run
