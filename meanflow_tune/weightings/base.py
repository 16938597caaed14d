"""Base of the weightings: residual [B, *D] -> loss [B], as a module that may have parameters."""

from abc import abstractmethod

from torch import Generator, Tensor, nn

from meanflow_tune.settings import Member


class WeightingModule(nn.Module):
    """The loss of each sample. Its parameters, if any, are trained with the student's."""

    @abstractmethod
    def forward(self, residual: Tensor, mean_square: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """[B], for a residual [B, *D] with its mean square over *D [B], at times t and s [B]."""


class WeightingSettings(Member):
    """Base of the family: settings that build a WeightingModule."""

    @abstractmethod
    def build(self, generator: Generator) -> WeightingModule:
        """The module, its initial numbers drawn from `generator` only."""
