"""A short training of a few configurations, in this process, to forecast a search by measured figures.

Writes in a temporary folder only; a teacher that is cached already is read from the cache.
"""

import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from meanflow_tune.checksums import Damaged, checksum_file, read_checked
from meanflow_tune.config import TrialConfig
from meanflow_tune.core.random import make_generator
from meanflow_tune.core.types import DataSplit
from meanflow_tune.files import without_links
from meanflow_tune.records import SilentReporter
from meanflow_tune.search.analysis.forecast import Pace
from meanflow_tune.student_files import export_student
from meanflow_tune.this_machine import processors
from meanflow_tune.training.checkpoints import save_checkpoint
from meanflow_tune.training.evaluation import SHOWN
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World

WARM_UP, STEPS = 5, 30
Progress = Callable[[str, int, int], None]  # what, done, of


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk: a checkpoint, the samples of a rung, the exported student."""

    checkpoint: int
    samples: int
    model: int


@dataclass(frozen=True)
class Timing:
    """Measured times of one configuration, in seconds. steps: each step after the warm-up.

    trouble: why it could not be timed to the end, "" if it was.
    """

    name: str
    batch: int
    steps: tuple[float, ...]
    start: float
    evaluation: float
    checkpoint: float
    sizes: Sizes | None
    trouble: str = ""

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.steps)

    @property
    def pace(self) -> Pace:
        return Pace(self.median / self.batch, self.evaluation + self.checkpoint, self.start)

    @property
    def spread(self) -> tuple[float, float]:
        """The tenth and the ninetieth percentile of a step's seconds."""
        ordered = sorted(self.steps)
        last = len(ordered) - 1
        return ordered[round(0.1 * last)], ordered[round(0.9 * last)]


@dataclass(frozen=True)
class Calibration:
    """timings: of each configuration; baselines: how many of the first ones are baselines.

    teacher: seconds that its training takes from now on, 0 where it is cached or there is none;
    preparation: seconds of the classifier and of the teacher's reference samples, once per slot.
    """

    device: str
    timings: tuple[Timing, ...]
    baselines: int
    teacher: float
    teacher_cached: bool
    preparation: float

    @property
    def pace(self) -> Pace | None:
        """The mean pace of the drawn configurations, of all where none could be timed."""
        drawn = [t for t in self.timings[self.baselines :] if not t.trouble]
        used = drawn or [t for t in self.timings if not t.trouble]
        if not used:
            return None
        paces = [timing.pace for timing in used]
        return Pace(
            statistics.fmean(pace.image for pace in paces),
            statistics.fmean(pace.evaluation for pace in paces),
            statistics.fmean(pace.start for pace in paces),
        )


def calibrate(
    named: Sequence[tuple[str, TrialConfig]],
    baselines: int,
    cache: Path,
    ranks: int,
    device: str,
    progress: Progress,
    warm_up: int = WARM_UP,
    steps: int = STEPS,
) -> Calibration:
    """Time each configuration: a few steps in the middle of its training, an evaluation, a checkpoint.

    named: names and configurations, baselines first. cache: the storage's folder of teachers, which
    is only read. ranks: of a trial; each step is that of one rank's share of the batch, without the
    communication between ranks. The number of threads is that of a slot, 1, and is put back.
    """
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="meanflow-calibrate-") as name:
        folder = Path(name)
        _link_cache(cache, folder / "teachers")
        torch.set_num_threads(1)
        try:
            return _Bench(folder, ranks, device, progress, warm_up, steps).run(named, baselines)
        finally:
            torch.set_num_threads(threads)


def busy() -> str:
    """A warning if other work shares the processors, else ""; the load before a calibration."""
    load, here = os.getloadavg()[0], processors()
    if load < 0.75 * here:
        return ""
    return f"the machine was busy with other work (load {load:.1f} on {here} processors)"


def computed_sizes(config: TrialConfig, data: DataSplit) -> Sizes:
    """Sizes by counting: weights, their average and two moments of Adam; samples of a rung."""
    net = config.network(data.shape, data.classes, make_generator(0, "sizes"))
    weighting = config.weighting.build(make_generator(0, "sizes"))
    state = _bytes(net.state_dict().values())
    trained = _bytes(net.parameters())
    extra = _bytes(weighting.parameters())
    samples = 0
    if config.evaluation is not None:
        kinds = 1 if config.teacher is None else 2
        samples = kinds * (len(config.evaluation.nfe) + 1) * SHOWN * math.prod(data.shape) * 4
    return Sizes(state + 3 * trained + 3 * extra, samples, state)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _link_cache(cache: Path, folder: Path) -> None:
    """Make finished teachers and classifiers of `cache` appear below `folder`."""
    folder.mkdir(parents=True)
    for weights in cache.glob("*/teacher.safetensors"):
        target = folder / weights.parent.name
        target.mkdir()
        _link(weights, target)
    for weights in cache.glob("classifier-*.safetensors"):
        _link(weights, folder)


def _link(weights: Path, folder: Path) -> None:
    for file in (weights, checksum_file(weights)):
        if file.exists():
            try:
                (folder / file.name).symlink_to(file.absolute())
            except OSError as error:
                if not without_links(error):
                    raise
                shutil.copyfile(file, folder / file.name)


def _is_whole(weights: Path) -> bool:
    """Whether weights can be read; damaged ones are made again by the search."""
    try:
        load(read_checked(weights))
    except (Damaged, SafetensorError):
        return False
    return True


class _Bench:
    def __init__(
        self, folder: Path, ranks: int, device: str, progress: Progress, warm_up: int, steps: int
    ) -> None:
        self.folder, self.ranks, self.progress = folder, ranks, progress
        self.warm_up, self.steps = warm_up, steps
        self.world = World(device=device)
        self.resources = Resources(folder / "teachers", self.world)
        self.teacher, self.cached, self.preparation = 0.0, False, 0.0
        self._trained: set[Path] = set()

    def run(self, named: Sequence[tuple[str, TrialConfig]], baselines: int) -> Calibration:
        timings = [
            self._time(f"{name} ({index} of {len(named)})", name, config)
            for index, (name, config) in enumerate(named, start=1)
        ]
        return Calibration(
            device_name(self.world.device),
            tuple(timings),
            baselines,
            self.teacher,
            self.cached,
            self.preparation,
        )

    def _time(self, label: str, name: str, config: TrialConfig) -> Timing:
        self.progress(label, 0, self.warm_up + self.steps)
        data = self.resources.data(config)
        self._ensure_teacher(config)
        self.progress(f"{label}: teacher's samples and classifier", 0, 0)
        began = self._now()
        teacher = self.resources.teacher(config, SilentReporter())
        evaluator = self.resources.evaluator(config, SilentReporter())
        self.preparation = max(self.preparation, self._now() - began)
        share = _share_of_a_rank(config, self.ranks)
        began = self._now()
        run = Run.start(share, self.world, data, teacher, self.resources.initial(share))
        start = self._now() - began
        # In the middle of training, all ramps are active and no special case of the first step applies.
        run.step = max(run.config.budget.steps // 2 - self.warm_up, 0)
        batch = config.budget.global_batch
        try:
            seconds = self._steps(run, label)
            average = run.averaged()
            began = self._now()
            samples = self.folder / "samples.npz"
            if evaluator is not None:
                self.progress(f"{label}: evaluation", 0, 0)
                _, shown = evaluator.evaluate(average, self.world)
                evaluator.write_samples(samples, shown)
            evaluation = self._now() - began
        except ArithmeticError as error:  # it diverged, or its samples are not finite
            return Timing(name, batch, (), start, 0.0, 0.0, None, str(error))
        began = self._now()
        saved = save_checkpoint(self.folder / "checkpoints", 0, run.state_dict())
        checkpoint = self._now() - began
        model = export_student(
            self.folder / "model", {}, run.averaged_state(), data.shape, data.classes
        )
        sizes = Sizes(
            saved.stat().st_size,
            samples.stat().st_size if evaluator is not None else 0,
            sum(path.stat().st_size for path in model.iterdir()),
        )
        return Timing(name, batch, tuple(seconds), start, evaluation, checkpoint, sizes)

    def _steps(self, run: Run, label: str) -> list[float]:
        """Seconds of each step after the warm-up. Raises Diverged."""
        seconds = []
        for index in range(self.warm_up + self.steps):
            began = self._now()
            run.advance(run.objective)
            if index >= self.warm_up:
                seconds.append(self._now() - began)
            self.progress(label, index + 1, self.warm_up + self.steps)
            if run.step == run.config.budget.steps:
                run.step = 0
        run.settle()
        return seconds

    def _ensure_teacher(self, config: TrialConfig) -> None:
        """Put a teacher into the temporary cache: the storage's, or one trained for a few timed steps."""
        if config.teacher is None:
            return
        weights = self.resources.teacher_folder(config) / "teacher.safetensors"
        if weights.exists() and _is_whole(weights):
            self.cached = self.cached or weights not in self._trained
            return
        for left in (weights, checksum_file(weights)):
            left.unlink(missing_ok=True)
        data = self.resources.data(config)
        own = _share_of_a_rank(config.teacher_run(), self.ranks)
        run = Run.start(own, self.world, data, None)
        seconds = self._steps(run, "teacher")
        self.teacher += statistics.median(seconds) * run.config.budget.steps
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file(run.averaged_state(), weights)
        self._trained.add(weights)

    def _now(self) -> float:
        if self.world.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()


def _share_of_a_rank(config: TrialConfig, ranks: int) -> TrialConfig:
    """The same training with the rows of one rank as its batch, and one rung."""
    batch = config.budget.global_batch // ranks
    budget = config.budget.model_copy(
        update={
            "global_batch": batch,
            "images": batch * config.budget.steps,
            "rungs": (1.0,),
        }
    )
    return config.model_copy(update={"budget": budget})


def device_name(device: str) -> str:
    """`NVIDIA H100` or `1 thread of this processor`."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return "one thread of this machine's processor"
