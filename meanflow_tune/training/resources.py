"""What a slot keeps between trials: data, frozen teachers, evaluators.

On disk below `root` (`<storage>/teachers`): `<hash>/` holds one trained teacher. A lock there makes one of
several slots or searches train it while the others wait.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import filelock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.jets import engine_of
from meanflow_tune.core.module_state import load_whole_state, rebuilding_generator, whole_state
from meanflow_tune.core.types import DataSplit, Velocity
from meanflow_tune.files import write_atomic
from meanflow_tune.metrics.classifier import build_classifier, features, train_classifier
from meanflow_tune.objective.velocities import guided_teacher
from meanflow_tune.records import Reporter, SilentReporter
from meanflow_tune.training.disk_wait import Interrupted, write_or_wait
from meanflow_tune.training.evaluation import Evaluator, make_evaluator
from meanflow_tune.training.loop import train
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World

POLL_SECONDS = 2.0
FORMAT = "teacher-2"  # change it when the meaning of a cached teacher changes


class Resources:
    """Caches by content. All methods are collective: every rank of the world calls them."""

    def __init__(self, root: Path, world: World) -> None:
        self.root = root
        self.world = world
        self._data: dict[str, DataSplit] = {}
        self._nets: dict[Path, nn.Module] = {}
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
        if folder not in self._nets:
            weights = folder / "teacher.safetensors"

            def make() -> dict[str, Tensor]:
                run = Run.start(config.teacher_run(), self.world, data, None)
                outcome = train(run, folder, SilentReporter(reporter), None, phase="teacher")
                if outcome.status == "running":
                    raise Interrupted
                if outcome.status != "completed":
                    raise ArithmeticError(f"the teacher {outcome.status}: {outcome.reason}")
                text = json.dumps(run.config.to_dict(), indent=1)
                write = partial(write_atomic, folder / "config.json", text)
                write_or_wait(self.world, reporter, folder, write)
                return run.averaged_state()

            self._once(weights, reporter, make)
            net = config.teacher_run().network(data.shape, data.classes, rebuilding_generator())
            load_whole_state(net, load_file(weights))
            self._nets[folder] = net.to(self.world.device).eval().requires_grad_(False)
            self._states[folder] = whole_state(net)
        engine = engine_of(config.compile, config.precision)
        return guided_teacher(self._nets[folder], config.guidance, data.classes, engine)

    def initial(self, config: TrialConfig) -> Mapping[str, Tensor] | None:
        """The first weights of a student of `config`; None where they are drawn.

        `teacher` must have been called for this configuration.
        """
        if config.student_init == "random":
            return None
        return self._states[self.teacher_folder(config)]

    def evaluator(self, config: TrialConfig, reporter: Reporter) -> Evaluator | None:
        """The evaluator of `config`, made once per teacher, guidance and evaluation settings.

        Its reference is computed in float32 without compilation, whatever the trial uses.
        """
        if config.evaluation is None:
            return None
        data = self.data(config)
        plain = config.model_copy(update={"precision": "float32", "compile": False})
        teacher = self.teacher(plain, reporter)
        parts = [config.data.model_dump_json(), config.evaluation.model_dump_json()]
        if teacher is not None:
            parts.append(self.teacher_folder(config).name)
            parts.append("" if config.guidance is None else config.guidance.model_dump_json())
        key = "/".join(parts)
        if key not in self._evaluators:
            net = None if data.train_label is None else self._classifier(data, reporter)
            made = make_evaluator(config.evaluation, data, teacher, net, self.world.device)
            self._evaluators[key] = made
        return self._evaluators[key]

    def _classifier(self, data: DataSplit, reporter: Reporter) -> Callable[[Tensor], Tensor]:
        """Features for the Fréchet distance: of a small classifier, trained once per data set."""
        weights = self.root / f"classifier-{data.fingerprint[:16]}.safetensors"

        def make() -> dict[str, Tensor]:
            return train_classifier(data, seed=0).state_dict() if self.world.leads else {}

        self._once(weights, reporter, make)
        net = build_classifier(data)
        net.load_state_dict(load_file(weights))
        return features(net.to(self.world.device))

    def _once(self, path: Path, reporter: Reporter, make: Callable[[], dict[str, Tensor]]) -> None:
        """Write what `make`, called on every rank, returns to `path`, unless that exists.

        One of several processes does so; the others wait outside collectives, which have a time
        limit. Raises Interrupted.
        """
        leads, lock = self.world.leads, filelock.FileLock(path.with_name(f"{path.name}.lock"))
        if leads:
            path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            if leads and not path.exists():
                try:
                    lock.acquire(timeout=POLL_SECONDS)
                except filelock.Timeout:
                    reporter.tick({"phase": "waiting for the teacher", "images": 0, "of": 0})
            try:
                made, ours, stop = self.world.share(
                    (path.exists(), lock.is_locked, leads and reporter.stopping())
                )
                if made:
                    return
                if stop:
                    raise Interrupted
                if ours:
                    write = partial(write_atomic, path, partial(save_file, make()))
                    write_or_wait(self.world, reporter, path.parent, write)
            finally:
                lock.release()
