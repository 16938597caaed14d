"""Evaluation at a rung: generate from latents that all trials share, and compute metrics at each NFE."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meanflow_tune.arrays import write_arrays
from meanflow_tune.config import Evaluation
from meanflow_tune.core.generation import generate
from meanflow_tune.core.ode import Method, integrate
from meanflow_tune.core.random import make_generator
from meanflow_tune.core.types import AverageVelocity, DataSplit, Velocity
from meanflow_tune.metrics.base import NonFiniteSamples, Reference
from meanflow_tune.training.world import World

SHOWN = 20
CHUNK = 1024


@dataclass(frozen=True)
class Evaluator:
    """Shared latents [N, *D], labels [N] or None, and the reference that samples are compared with.

    `teacher_samples[nfe]` [SHOWN, *D] are the teacher's own Euler steps from the first latents, and
    `teacher_metrics` their metrics over all latents: the baseline of every comparison. Both are empty
    without a teacher.

    `held_out_metrics[of]` are metrics against the held-out data by name, without NFE, of `teacher` (the
    end of its ODE, absent without one: what a perfect student would reach), `data` (as many rows of the
    training data: about what a perfect model would reach) and `noise` (the latents). Those that need a
    teacher are left out.
    """

    settings: Evaluation
    latents: Tensor
    labels: Tensor | None
    reference: Reference
    teacher_samples: dict[int, Tensor]
    teacher_metrics: dict[str, float]
    held_out_metrics: dict[str, dict[str, float]]

    @torch.no_grad()
    def evaluate(
        self, student: AverageVelocity, world: World
    ) -> tuple[dict[str, float], dict[int, Tensor]]:
        """Metrics `name@nfe` on rank 0 (empty elsewhere) and the first SHOWN samples of each NFE.

        Raises NonFiniteSamples on every rank when any sample is not finite.
        """
        metrics: dict[str, float] = {}
        shown: dict[int, Tensor] = {}
        rows = world.rows(len(self.latents))
        for nfe in self.settings.nfe:
            local = _in_chunks(
                partial(generate, student, nfe=nfe),
                self.latents[rows],
                None if self.labels is None else self.labels[rows],
            )
            samples = world.gather_rows(local, len(self.latents))
            if not torch.isfinite(samples).all():
                raise NonFiniteSamples(f"samples at nfe={nfe} are not finite")
            shown[nfe] = samples[:SHOWN].cpu()
            if world.leads:
                for metric in self.settings.metrics:
                    metrics[f"{metric.name}@{nfe}"] = metric.compute(samples, self.reference)
        return metrics, shown

    def write_samples(self, path: Path, shown: dict[int, Tensor]) -> None:
        """An .npz: latents, labels, teacher (ODE end), student@n, teacher@n, and as JSON teacher_metrics
        and held_out_metrics.

        Without a teacher its arrays are left out, and teacher_metrics is `{}`.
        """
        arrays = {"latents": self.latents[:SHOWN].cpu().numpy()}
        if self.reference.teacher_end is not None:
            arrays["teacher"] = self.reference.teacher_end[:SHOWN].cpu().numpy()
        if self.labels is not None:
            arrays["labels"] = self.labels[:SHOWN].cpu().numpy()
        arrays["teacher_metrics"] = np.array(json.dumps(self.teacher_metrics))
        arrays["held_out_metrics"] = np.array(json.dumps(self.held_out_metrics))
        arrays |= {f"student@{nfe}": x.numpy() for nfe, x in shown.items()}
        arrays |= {f"teacher@{nfe}": x.numpy() for nfe, x in self.teacher_samples.items()}
        write_arrays(path, arrays)


def make_evaluator(
    settings: Evaluation,
    data: DataSplit,
    teacher: Velocity | None,
    features: Callable[[Tensor], Tensor] | None,
    device: str,
) -> Evaluator:
    """Draw latents from `settings.latent_seed` and integrate the teacher's ODE from them.

    Labels cycle through the classes, so that each is measured equally often. Without a teacher, only
    metrics that compare with held-out data can be computed.
    """
    count = settings.samples
    generator = make_generator(settings.latent_seed, "latent")
    latents = torch.randn(count, *data.shape, generator=generator).to(device)
    labels = None if data.classes is None else (torch.arange(count) % data.classes).to(device)

    def solve(teacher: Velocity, steps: int, method: Method) -> Tensor:
        def end(x: Tensor, label: Tensor | None) -> Tensor:
            return integrate(lambda y, t: teacher(y, t, label), x, 0.0, 1.0, steps, method)

        return _in_chunks(end, latents, labels)

    teacher_end, euler = None, {}
    with torch.no_grad():
        if teacher is not None:
            teacher_end = solve(teacher, settings.reference.steps, settings.reference.method)
            euler = {nfe: solve(teacher, nfe, "euler") for nfe in settings.nfe}
        reference = Reference(
            teacher_end=teacher_end,
            held_out=data.held_out_x.to(device),
            features=features,
            seed=settings.latent_seed,
        )
    metrics = {
        f"{metric.name}@{nfe}": metric.compute(samples, reference)
        for nfe, samples in euler.items()
        for metric in settings.metrics
    }
    # As many rows as samples, because a Fréchet distance depends on their number.
    order = torch.randperm(
        len(data.train_x), generator=make_generator(settings.latent_seed, "data")
    )
    rows = order[:count].to(data.train_x.device)
    against = {"data": data.train_x[rows], "noise": latents}
    if teacher_end is not None:
        against = {"teacher": teacher_end} | against
    held_out = {of: _held_out_metrics(settings, x, reference) for of, x in against.items()}
    shown = {nfe: samples[:SHOWN].cpu() for nfe, samples in euler.items()}
    return Evaluator(settings, latents, labels, reference, shown, metrics, held_out)


def _held_out_metrics(
    settings: Evaluation, samples: Tensor, reference: Reference
) -> dict[str, float]:
    """Metrics of samples that need no teacher; none where samples are not finite."""
    found = {}
    for metric in settings.metrics:
        if not metric.needs_teacher:
            with suppress(NonFiniteSamples):
                found[metric.name] = metric.compute(samples, reference)
    return found


def _in_chunks(
    function: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, label: Tensor | None
) -> Tensor:
    """`function` over slices of at most CHUNK rows, so that memory does not grow with N."""
    pieces = [
        function(x[i : i + CHUNK], None if label is None else label[i : i + CHUNK])
        for i in range(0, len(x), CHUNK)
    ]
    return torch.cat(pieces) if pieces else x[:0]
