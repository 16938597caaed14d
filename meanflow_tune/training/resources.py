"""What a slot keeps from trial to trial: data, frozen teachers, evaluators.

On disk below `root` (`<storage>/teachers`): `<hash>/` holds one trained teacher, and a lock there
the process that trains it, so that of two slots (or two searches) one trains and the other waits.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.jets import engine_of
from meanflow_tune.core.random import make_generator
from meanflow_tune.core.types import DataSplit, Velocity
from meanflow_tune.files import write_atomic
from meanflow_tune.metrics.classifier import build_classifier, features, train_classifier
from meanflow_tune.objective.velocities import guided_teacher
from meanflow_tune.records import Report
from meanflow_tune.training.disk_wait import Interrupted, write_or_wait
from meanflow_tune.training.evaluation import Evaluator, make_evaluator
from meanflow_tune.training.loop import Sink, train
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World

POLL_SECONDS = 2.0
FORMAT = "teacher-1"  # change it when the meaning of a cached teacher changes


class Resources:
    """Caches by content. All methods are collective: every rank of the world calls them."""

    def __init__(self, root: Path, world: World) -> None:
        self.root = root
        self.world = world
        self._data: dict[str, DataSplit] = {}
        self._nets: dict[Path, nn.Module] = {}
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

    def teacher(self, config: TrialConfig, sink: Sink) -> Velocity | None:
        """v_phi of `config` with its guidance, trained now if no cache holds it; None without one.

        Raises Interrupted when the sink stops, ArithmeticError when the teacher diverges.
        """
        if config.teacher is None:
            return None
        folder, data = self.teacher_folder(config), self.data(config)
        if folder not in self._nets:
            weights = folder / "teacher.safetensors"

            def make() -> None:
                run = Run.start(config.teacher_run(), self.world, data, None)
                outcome = train(run, folder, _Quiet(sink), None, phase="teacher")
                if outcome.status == "running":
                    raise Interrupted
                if outcome.status != "completed":
                    raise ArithmeticError(f"the teacher {outcome.status}: {outcome.reason}")
                state = run.averaged_state()
                text = json.dumps(run.config.to_dict(), indent=1)

                def write() -> None:
                    write_atomic(folder / "config.json", text)
                    write_atomic(weights, lambda p: save_file(state, p))

                write_or_wait(self.world, sink, write, folder)

            self._once(weights, sink, make)
            generator = make_generator(0, "teacher")
            net = config.teacher_run().network(data.shape, data.classes, generator)
            net.load_state_dict(load_file(weights))
            self._nets[folder] = net.to(self.world.device).eval().requires_grad_(False)
        return guided_teacher(
            self._nets[folder],
            config.guidance,
            data.classes,
            engine_of(config.compile, config.precision),
        )

    def initial(self, config: TrialConfig) -> Mapping[str, Tensor] | None:
        """The weights that a student of `config` begins with; None where they are drawn.

        `teacher` must have been called for this configuration.
        """
        if config.student_init == "random":
            return None
        return self._nets[self.teacher_folder(config)].state_dict()

    def evaluator(self, config: TrialConfig, sink: Sink) -> Evaluator | None:
        """The evaluator of `config`, made once a teacher with its guidance and evaluation settings.

        What it compares with is computed in float32 and as written, whatever the trial trains in.
        """
        if config.evaluation is None:
            return None
        data = self.data(config)
        plain = config.model_copy(update={"precision": "float32", "compile": False})
        teacher = self.teacher(plain, sink)
        parts = [config.data.model_dump_json(), config.evaluation.model_dump_json()]
        if teacher is not None:
            parts.append(self.teacher_folder(config).name)
            parts.append("" if config.guidance is None else config.guidance.model_dump_json())
        key = "/".join(parts)
        if key not in self._evaluators:
            net = self._classifier(data, sink) if data.train_label is not None else None
            made = make_evaluator(config.evaluation, data, teacher, net, self.world.device)
            self._evaluators[key] = made
        return self._evaluators[key]

    def _classifier(self, data: DataSplit, sink: Sink) -> Callable[[Tensor], Tensor]:
        """Features for the Fréchet distance: a small classifier trained once a data set, and cached."""
        weights = self.root / f"classifier-{data.fingerprint[:16]}.safetensors"

        def make() -> None:
            state = train_classifier(data, seed=0).state_dict() if self.world.leads else {}
            write_or_wait(
                self.world,
                sink,
                lambda: write_atomic(weights, lambda p: save_file(state, p)),
                self.root,
            )

        self._once(weights, sink, make)
        net = build_classifier(data)
        net.load_state_dict(load_file(weights))
        return features(net.to(self.world.device))

    def _once(self, path: Path, sink: Sink, make: Callable[[], None]) -> None:
        """Call `make` on every rank unless `path` exists; of several processes one does, others wait.

        Waiting happens outside collectives, which have a time limit.
        """
        lock = filelock.FileLock(path.with_name(f"{path.name}.lock"))
        if self.world.leads:
            path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            mine = False
            if self.world.leads and not path.exists():
                try:
                    lock.acquire(timeout=POLL_SECONDS)
                    mine = True
                except filelock.Timeout:
                    sink.tick({"phase": "waiting for the teacher", "images": 0, "of": 0})
            state = self.world.share((path.exists(), mine, self.world.leads and sink.stopping()))
            try:
                if state[0]:
                    return
                if state[2]:
                    raise Interrupted
                if state[1]:
                    make()
            finally:
                if mine:
                    lock.release()


class _Quiet:
    """A sink that passes progress on and keeps reports to itself."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def report(self, report: Report) -> bool:
        return True

    def tick(self, progress: dict[str, Any]) -> None:
        self._sink.tick(progress)

    def stopping(self) -> bool:
        return self._sink.stopping()
