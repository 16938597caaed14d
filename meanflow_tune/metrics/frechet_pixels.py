"""Fréchet distance of the samples themselves."""

from typing import Literal

from torch import Tensor

from meanflow_tune.metrics.base import MetricSettings, Reference, rows
from meanflow_tune.metrics.frechet import frechet_distance


class FrechetPixels(MetricSettings):
    """Fréchet distance between samples and held-out data, each value being a coordinate.

    Exact on the first two moments, blind beyond them; for small samples only: the cost grows with
    the cube of the number of dimensions.
    """

    kind: Literal["frechet_pixels"] = "frechet_pixels"

    def _value(self, samples: Tensor, reference: Reference) -> float:
        return frechet_distance(rows(samples), rows(reference.held_out))
