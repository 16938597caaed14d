"""Wasserstein-2 distance of one-dimensional projections (Bonneel et al., 2015)."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from meanflow_tune.metrics.base import MetricSettings, Reference, rows


class SlicedWasserstein(MetricSettings):
    """Root of the mean over random directions θ of W2²(θ·samples, θ·held out).

    projections: number of directions, uniform on the sphere, drawn from the reference's seed.
    """

    kind: Literal["sliced_wasserstein"] = "sliced_wasserstein"
    projections: int = Field(128, ge=1, le=100_000)

    def _value(self, samples: Tensor, reference: Reference) -> float:
        import ot  # takes seconds

        distance = ot.sliced_wasserstein_distance(
            rows(samples).numpy(),
            rows(reference.held_out).numpy(),
            n_projections=self.projections,
            p=2,
            seed=reference.seed % 2**32,  # all that NumPy's legacy generator takes
        )
        return float(distance)
