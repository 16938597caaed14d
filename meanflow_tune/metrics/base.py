"""Base of the metrics: the reference of the comparison, and the refusal of broken samples.

N generated samples, M held-out samples, *D dimensions of one sample, F features. Lower is
better in every metric.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meanflow_tune.settings import Member


class NonFiniteSamples(ArithmeticError):
    """The generator made NaN or infinite numbers: the trial has diverged and has no metric."""


@dataclass(frozen=True)
class Reference:
    """What generated samples are compared with.

    teacher_end: [N, *D] end points of the teacher's ODE from the latents of the samples (row i
    belongs to sample i), or None without a teacher; held_out: [M, *D] data never trained on;
    features: [K, *D] -> [K, F], or None where there are none; seed: of metrics that draw random
    numbers.
    """

    teacher_end: Tensor | None
    held_out: Tensor
    features: Callable[[Tensor], Tensor] | None = None
    seed: int = 0


class MetricSettings(Member):
    """Base of the family: settings that measure generated samples.

    needs_teacher: whether it compares with a teacher, so that it has no meaning without one.
    """

    needs_teacher: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name of the value in reports, where `@NFE` is appended."""
        return self.kind

    def compute(self, samples: Tensor, reference: Reference) -> float:
        """The metric of samples [N, *D].

        Raises NonFiniteSamples if a sample is NaN or infinite; ValueError if the reference lacks
        what the metric needs or the shapes do not fit.
        """
        if samples.shape[1:] != reference.held_out.shape[1:]:
            raise ValueError(
                "samples and held-out data must have the same dimensions, but got "
                f"({tuple(samples.shape)}, {tuple(reference.held_out.shape)})"
            )
        broken = int((~torch.isfinite(samples)).flatten(1).any(dim=1).sum())
        if broken:
            raise NonFiniteSamples(
                f"{broken} of {len(samples)} generated samples are not finite; "
                f"metric '{self.kind}' is undefined"
            )
        with torch.no_grad():
            return self._value(samples, reference)

    @abstractmethod
    def _value(self, samples: Tensor, reference: Reference) -> float:
        """The metric of finite samples [N, *D]."""


def rows(x: Tensor) -> Tensor:
    """[N, *D] as float64 rows [N, prod(D)] on the CPU, where every metric is computed."""
    return x.detach().to(device="cpu", dtype=torch.float64).flatten(1)
