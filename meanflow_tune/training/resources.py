"""What a slot keeps between trials: data, frozen teachers, evaluators.

On disk below `root` (`<storage>/teachers`): `<hash>/` holds one trained teacher. A lock there makes one of
several slots or searches train it while the others wait.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import filelock
import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn

from meanflow_tune.checksums import (
    Damaged,
    put_aside,
    read_checked,
    record,
    recorded,
    write_checked,
)
from meanflow_tune.config import TrialConfig
from meanflow_tune.core.jets import engine_of
from meanflow_tune.core.module_state import load_whole_state, rebuilding_generator, whole_state
from meanflow_tune.core.products import float32_products
from meanflow_tune.core.types import DataSplit, Velocity
from meanflow_tune.metrics.classifier import build_classifier, features, train_classifier
from meanflow_tune.objective.velocities import GuidedTeacher
from meanflow_tune.records import NO_TEACHER, TEACHER, Reporter, SilentReporter
from meanflow_tune.training.checkpoints import reason
from meanflow_tune.training.disk_wait import Interrupted, write_or_wait
from meanflow_tune.training.evaluation import Evaluator, make_evaluator
from meanflow_tune.training.loop import train
from meanflow_tune.training.memory import memory_shortage
from meanflow_tune.training.run import Run, placed
from meanflow_tune.training.world import World

POLL_SECONDS = 2.0
TRIES = 30  # to see a file that another host has just made
FORMAT = "teacher-2"  # change it when the meaning of a cached teacher changes
GONE = "it is not there for every rank of a trial"
UNLIKE = "the ranks of a trial read different files there"

log = logging.getLogger(__name__)

Make = Callable[[], dict[str, Tensor]]
Use = Callable[[dict[str, Tensor]], object]


class NotCached(LookupError):
    """A teacher or classifier is missing or damaged, and is not to be made here; one line."""


# What an evaluation of every trial of a study has in common.
AS_EVALUATED = {"precision": "float32", "compile": False, "channels_last": False}


class SharedFiles(Protocol):
    """Where other hosts get a teacher or classifier from, where they do not see this host's disk."""

    def fetch(self, path: Path) -> None:
        """Make `path` there if another host has made it."""

    def send(self, path: Path) -> None:
        """Give `path` to other hosts; where one was faster, take its."""


class SharedFolder:
    """Hosts that see one folder need nothing."""

    def fetch(self, path: Path) -> None:
        pass

    def send(self, path: Path) -> None:
        pass


class Resources:
    """Caches by content. All methods are collective: every rank of the world calls them.

    makes: whether what is missing or damaged in the cache is made; else NotCached is raised.
    """

    def __init__(self, root: Path, world: World, makes: bool = True) -> None:
        self.root, self.world, self.makes = root, world, makes
        self.shared: SharedFiles = SharedFolder()
        self._data: dict[str, DataSplit] = {}
        self._nets: dict[tuple[Path, bool], nn.Module] = {}
        self._states: dict[Path, Mapping[str, Tensor]] = {}
        self._evaluators: dict[str, Evaluator] = {}

    def data(self, config: TrialConfig) -> DataSplit:
        """The data set of `config`, on this world's device."""
        key = config.data.model_dump_json()
        if key not in self._data:
            split, device = config.data.load(), self.world.device
            self._data[key] = replace(
                split,
                train_x=split.train_x.to(device),
                held_out_x=split.held_out_x.to(device),
                train_label=None if split.train_label is None else split.train_label.to(device),
            )
        return self._data[key]

    def teacher_folder(self, config: TrialConfig) -> Path:
        """Where the teacher of `config` is or will be."""
        name = config.teacher_run().content_hash(self.data(config).fingerprint, FORMAT)
        return self.root / name

    def teacher(self, config: TrialConfig, reporter: Reporter) -> Velocity | None:
        """v_phi of `config` with its guidance, trained now unless it is cached; None without a teacher.

        Raises Interrupted when the search stops, ArithmeticError when the teacher diverges.
        """
        if config.teacher is None:
            return None
        folder, data = self.teacher_folder(config), self.data(config)
        key = (folder, config.channels_last)
        if key not in self._nets:
            weights = folder / "teacher.safetensors"

            def make() -> dict[str, Tensor]:
                run = Run.start(config.teacher_run(), self.world, data, None)
                outcome = train(run, folder, SilentReporter(reporter), None, phase=TEACHER)
                if outcome.status == "running":
                    raise Interrupted
                if outcome.status != "completed":
                    raise ArithmeticError(f"the teacher {outcome.status}: {outcome.reason}")
                text = json.dumps(run.config.to_dict(), indent=1)
                write = partial(write_checked, folder / "config.json", text)
                write_or_wait(self.world, reporter, folder, write)
                return run.averaged_state()

            net = config.teacher_run().network(data.shape, data.classes, rebuilding_generator())
            self._once(weights, reporter, make, partial(load_whole_state, net))
            self._nets[key] = placed(net, config, self.world).eval().requires_grad_(False)
            self._states[folder] = whole_state(net)
        engine = engine_of(config.compile_choice.compiled, config.precision)
        return GuidedTeacher(self._nets[key], config.guidance, data.classes, engine)

    def initial(self, config: TrialConfig) -> Mapping[str, Tensor] | None:
        """The first weights of a student of `config`; None where they are drawn.

        `teacher` must have been called for this configuration.
        """
        if config.student_init == "random":
            return None
        return self._states[self.teacher_folder(config)]

    def evaluator(self, config: TrialConfig, reporter: Reporter) -> Evaluator | None:
        """The evaluator of `config`, made once per teacher, guidance and evaluation settings.

        Its reference is computed in float32, uncompiled, whatever the trial uses.
        """
        if config.evaluation is None:
            return None
        data = self.data(config)
        plain = config.model_copy(update=AS_EVALUATED)
        teacher = self.teacher(plain, reporter)
        parts = [config.data.model_dump_json(), config.evaluation.model_dump_json()]
        if teacher is not None:
            parts.append(self.teacher_folder(config).name)
            parts.append("" if config.guidance is None else config.guidance.model_dump_json())
        key = "/".join(parts)
        if key not in self._evaluators:
            net = None if data.train_label is None else self._classifier(data, reporter)
            with float32_products(tf32=False):
                made = make_evaluator(config.evaluation, data, teacher, net, self.world.device)
            self._evaluators[key] = made
        return self._evaluators[key]

    def _classifier(self, data: DataSplit, reporter: Reporter) -> Callable[[Tensor], Tensor]:
        """Features for the Fréchet distance: of a small classifier, trained once per data set."""
        weights = self.root / f"classifier-{data.fingerprint[:16]}.safetensors"

        def make() -> dict[str, Tensor]:
            return train_classifier(data, seed=0).state_dict() if self.world.leads else {}

        net = build_classifier(data)
        self._once(weights, reporter, make, net.load_state_dict)
        return features(net.to(self.world.device))

    def _once(self, path: Path, reporter: Reporter, make: Make, use: Use) -> None:
        """Give the tensors in `path` to `use`, on every rank; what is missing or damaged is made first.

        One of several processes writes what `make`, called on every rank, returns; the others wait outside
        collectives, which have a time limit. Raises Interrupted, NotCached where nothing is to be made,
        and OSError where the ranks read different files, or what was just written is damaged.
        """
        leads, lock = self.world.leads, filelock.FileLock(path.with_name(f"{path.name}.lock"))
        if leads and self.makes:
            path.parent.mkdir(parents=True, exist_ok=True)
        written, tries = False, 0
        while True:
            self.shared.fetch(path)
            if not self.makes and not path.is_file():
                raise NotCached(f"{path} is not in the cache")
            if leads and not path.exists():
                try:
                    lock.acquire(timeout=POLL_SECONDS)
                except filelock.Timeout:
                    reporter.tick({"phase": NO_TEACHER, "images": 0, "of": 0})
            try:
                made, ours, stop = self.world.share(
                    (path.exists(), lock.is_locked, leads and reporter.stopping())
                )
                if made:
                    why, seen = self._read(path, use)
                    if not why:
                        return
                    tries += 1
                    self._refuse(path, why, written, tries)
                    if leads and why != GONE:
                        _put_aside(path, seen, why, lock, reporter)
                    elif why == GONE:
                        time.sleep(POLL_SECONDS)
                elif stop:
                    raise Interrupted
                elif ours:
                    write = partial(write_checked, path, partial(save_file, make()))
                    write_or_wait(self.world, reporter, path.parent, write)
                    written = True
                    if leads:
                        self.shared.send(path)
            finally:
                lock.release()

    def _read(self, path: Path, use: Use) -> tuple[str, tuple[int, ...]]:
        """Give the tensors in `path` to `use`: why they cannot be taken, the same on every rank, "" if they
        can, and which file this rank saw. Raises what is no damage.
        """
        world, found, why = self.world, "", ""
        seen: tuple[int, ...] = ()
        try:
            seen = _identity(path)
            content = read_checked(path)
            found = hashlib.sha256(content).hexdigest()
            use(load(content))
        except FileNotFoundError:
            why = GONE
        except Damaged as error:
            why = str(error)
        except (OSError, torch.AcceleratorError):
            raise
        except Exception as error:  # of safetensors and torch, by what the file lacks
            if memory_shortage(error) is not None:
                raise
            log.debug("%s", path, exc_info=error)
            why = f"it cannot be loaded: {reason(error)}"
        ranks = world.gather((found, why))
        (first, of_leader), reasons = ranks[0], [each for _, each in ranks]
        if GONE in reasons:
            return GONE, seen
        if not of_leader and (any(reasons) or any(each != first for each, _ in ranks)):
            return UNLIKE, seen
        if not of_leader and world.leads and self.makes and recorded(path) is None:
            with suppress(OSError):  # it is kept the next time
                record(path, found)
        return of_leader, seen

    def _refuse(self, path: Path, why: str, written: bool, tries: int) -> None:
        """Raise where making `path` again would not help, or is not to be done."""
        if not self.makes:
            raise NotCached(f"{path} is damaged ({why})")
        if why == UNLIKE or (why == GONE and tries > TRIES):
            raise OSError(f"{path}: {why}; check that all hosts mount the same storage")
        if written and why != GONE:
            raise OSError(f"{path}: damaged right after it was written ({why}); check that disk")


def _identity(path: Path) -> tuple[int, ...]:
    """Tells a file from the one that replaces it."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _put_aside(
    path: Path, seen: tuple[int, ...], why: str, lock: filelock.BaseFileLock, reporter: Reporter
) -> None:
    """Rename the damaged file that was seen, unless another process has done so."""
    with suppress(filelock.Timeout, FileNotFoundError), lock.acquire(timeout=POLL_SECONDS):
        if _identity(path) == seen:
            kept = put_aside(path)
            reporter.fault(
                f"{path} is damaged ({why})", f"it is kept as {kept.name} and made again"
            )
