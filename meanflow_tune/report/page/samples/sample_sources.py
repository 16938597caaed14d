"""Samples of a study's data, teacher and students from the same latents: kept ones, else generated now."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meanflow_tune.arrays import read_arrays
from meanflow_tune.checksums import Damaged
from meanflow_tune.config import TrialConfig
from meanflow_tune.core.ode import Method, integrate
from meanflow_tune.core.random import make_generator
from meanflow_tune.records import Report, SilentReporter, TrialRecord
from meanflow_tune.report.page.samples.sample_images import Floats
from meanflow_tune.sampling import load_student
from meanflow_tune.training.resources import AS_EVALUATED, NotCached, Resources
from meanflow_tune.training.world import World

log = logging.getLogger(__name__)

NFES = (1, 2, 4, 8)
IMAGES, POINTS = 20, 4000
SLOW = "it would take too long at the end of a search; scripts/report.py generates it"


class Unavailable(ValueError):
    """Samples that cannot be had, and why, in one line."""


@dataclass(frozen=True)
class Frame:
    """A student's samples at a rung, by NFE. kept: whether they are those that training kept, which may
    be few; lacking: NFE -> why there are none."""

    images: int
    samples: Mapping[int, Floats]
    metrics: Mapping[str, float]
    kept: bool = False
    lacking: Mapping[int, str] = field(default_factory=dict)


class Deadline:
    """Raises Unavailable once its seconds are used up; None: never."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        if self._end is not None and time.monotonic() > self._end:
            raise Unavailable(SLOW)


class SampleSource:
    """Samples from the latents of a configuration's evaluation; labels cycle through the classes.

    teachers: their cache; nothing is trained. check: called between calculations; may raise to stop them.
    """

    def __init__(
        self, config: TrialConfig, teachers: Path, deadline: Deadline, check: Callable[[], None]
    ) -> None:
        self.config, self._deadline, self._check = config, deadline, check
        self._resources = Resources(teachers, World(), makes=False)
        data = self._resources.data(config)
        self.shape, self.classes = data.shape, data.classes
        self.points = self.shape == (2,)
        if not self.points and not (len(self.shape) == 3 and self.shape[0] in (1, 3)):
            raise Unavailable(
                f"samples of shape {self.shape} are neither images nor points of a plane"
            )
        evaluation = config.evaluation
        seed = 20_000 if evaluation is None else evaluation.latent_seed
        size = IMAGES if evaluation is None else evaluation.samples
        count = POINTS if self.points else IMAGES
        # Those of the evaluation first: the same numbers as in the files that training kept.
        generator = make_generator(seed, "latent")
        drawn = torch.randn(size, *self.shape, generator=generator)
        if count > size:
            drawn = torch.cat([drawn, torch.randn(count - size, *self.shape, generator=generator)])
        self.latents = drawn[:count]
        labels = None if self.classes is None else torch.arange(count) % self.classes
        self.labels = labels

    def data(self) -> Floats:
        """Held-out data, in its own order of labels."""
        split = self._resources.data(self.config)
        return _array(split.held_out_x[: len(self.latents)])

    def solved(self) -> tuple[Floats, str]:
        """The end of the teacher's ODE, and how it was solved. Raises Unavailable."""
        evaluation = self.config.evaluation
        steps, method = 16, "rk4"
        if evaluation is not None:
            steps, method = evaluation.reference.steps, evaluation.reference.method
        return self._integrate(steps, method), f"{method}, {steps} steps"  # type: ignore[arg-type]

    def euler(self, nfe: int) -> Floats:
        """`nfe` Euler steps of the teacher. Raises Unavailable."""
        return self._integrate(nfe, "euler")

    def _integrate(self, steps: int, method: Method) -> Floats:
        if self.config.teacher is None:
            raise Unavailable("this study has no teacher")
        plain = self.config.model_copy(update=AS_EVALUATED)
        try:
            teacher = self._resources.teacher(plain, SilentReporter())
        except NotCached as error:
            raise Unavailable(f"its teacher {error}") from None
        assert teacher is not None

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            self._check()
            self._deadline.check()
            return teacher(x, t, self.labels)

        with torch.no_grad():
            return _array(integrate(velocity, self.latents, 0.0, 1.0, steps, method))

    def frames(self, record: TrialRecord) -> list[Frame]:
        """A trial's samples at its rungs; those of the last one at all of NFES. Raises Unavailable."""
        made = []
        for report in record.reports:
            made.append(self._frame(record, report, last=report is record.reports[-1]))
        return made

    def _frame(self, record: TrialRecord, report: Report, last: bool) -> Frame:
        samples, why = self._kept(report)
        kept = bool(samples)
        lacking: dict[int, str] = {}
        wanted = [n for n in NFES if n not in samples]
        if (self.points or not kept or (last and wanted)) and (
            network := self._network(record, report, last, lacking)
        ):
            try:
                for nfe in NFES if self.points else wanted:
                    self._check()
                    self._deadline.check()
                    samples[nfe] = _array(network.generate(self.latents, self.labels, nfe))
                kept = False
            except Unavailable as error:
                lacking |= dict.fromkeys(NFES, str(error))
        if not samples:
            lacking = {nfe: lacking.get(nfe) or why for nfe in NFES}
        return Frame(report.images, samples, report.metrics, kept, lacking)

    def _network(
        self, record: TrialRecord, report: Report, last: bool, lacking: dict[int, str]
    ) -> Any | None:
        """The student as it was at a rung, None where it was not kept."""
        folder = Path(record.folder)
        checkpoint = folder / "checkpoints" / f"{report.images:012d}.pt"
        export = folder / "model"
        source = export if last and (export / "config.json").is_file() else checkpoint
        if not source.exists():
            lacking |= dict.fromkeys(NFES, "the model was not kept")
            return None
        try:
            student = load_student(source)
        except ValueError as error:
            lacking |= dict.fromkeys(NFES, str(error).rstrip("."))
            return None
        if student.shape != self.shape or student.classes != self.classes:
            lacking |= dict.fromkeys(NFES, "its samples have another shape or other classes")
            return None
        return student

    def _kept(self, report: Report) -> tuple[dict[int, Floats], str]:
        """The samples that training kept by NFE, and why there are none."""
        source = report.artifacts.get("samples")
        if source is None or not Path(source).is_file():
            return {}, "neither samples nor the model were kept"
        try:
            arrays = read_arrays(Path(source))
            latents = arrays["latents"]
            ours = self.latents[: len(latents)].numpy()
            if latents.shape != ours.shape or not np.allclose(latents, ours, atol=1e-6):
                return {}, "its samples were drawn from other latents"
            found = {
                int(name.partition("@")[2]): np.asarray(array, dtype=np.float64)
                for name, array in arrays.items()
                if name.startswith("student@")
            }
        except Damaged as error:
            return {}, str(error)
        except (OSError, KeyError, TypeError, ValueError) as error:  # other arrays than ours
            log.debug("%s", source, exc_info=error)
            return {}, f"{Path(source).name} cannot be read"
        shapes = {x.shape[1:] for x in found.values()}
        return (found, "") if shapes == {self.shape} else ({}, "its samples have another shape")


def _array(samples: Tensor) -> Floats:
    return samples.detach().cpu().numpy().astype(np.float64)
