"""The pseudo-Huber norm, a square for small errors and an absolute value for large ones."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor

from meanflow_tune.weightings.base import WeightingModule, WeightingSettings


class PseudoHuber(WeightingSettings):
    """The mean over dimensions of sqrt(r² + scale²) - scale.

    It acts on each dimension. On the norm of a whole sample it would have the gradient of the
    adaptive weight with power 1/2 and epsilon scale², but for a factor.
    """

    kind: Literal["pseudo_huber"] = "pseudo_huber"
    scale: Annotated[float, Field(gt=0.0, le=10.0)] = 0.1

    def build(self, generator: Generator) -> WeightingModule:
        return _PseudoHuber(self.scale)


class _PseudoHuber(WeightingModule):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, residual: Tensor, mean_square: Tensor, t: Tensor, s: Tensor) -> Tensor:
        square = residual.square()
        # r² / (sqrt(r² + c²) + c) is the same without the cancellation of two nearly equal numbers.
        value = square / ((square + self.scale**2).sqrt() + self.scale)
        return value.reshape(len(residual), -1).mean(dim=1)
