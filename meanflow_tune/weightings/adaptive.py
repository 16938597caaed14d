"""MeanFlow's adaptive weight, a negative power of the sample's error (arXiv 2505.13447)."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor

from meanflow_tune.core.residuals import adaptive_weight
from meanflow_tune.weightings.base import WeightingModule, WeightingSettings


class Adaptive(WeightingSettings):
    """Weight 1 / (mean square + epsilon)^power of each sample, without gradient."""

    kind: Literal["adaptive"] = "adaptive"
    power: Annotated[float, Field(ge=0.0, le=2.0)] = 0.75
    epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3

    def build(self, generator: Generator) -> WeightingModule:
        return _Adaptive(self)


class _Adaptive(WeightingModule):
    def __init__(self, settings: Adaptive) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, residual: Tensor, mean_square: Tensor, t: Tensor, s: Tensor) -> Tensor:
        weight = adaptive_weight(mean_square, self.settings.power, self.settings.epsilon)
        return mean_square * weight
