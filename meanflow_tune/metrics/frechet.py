"""The Fréchet distance between two sets of vectors, each summarised as a Gaussian."""

import torch
from torch import Tensor, nn


class _Given(nn.Module):
    """The identity: torchmetrics requires a network, while the vectors exist already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½) of a [N, F] and b [M, F], both float64.

    Biased upwards for few samples: compare only values from equal N and M. Raises ValueError if
    N < 2 or M < 2.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(
            f"a Fréchet distance needs at least 2 samples per side, but got ({len(a)}, {len(b)})"
        )
    from torchmetrics.image.fid import FrechetInceptionDistance  # takes seconds

    # In a process group torchmetrics would gather over all ranks: one rank alone would hang.
    metric = FrechetInceptionDistance(feature=_Given(a.shape[1]), sync_on_compute=False)
    metric.set_dtype(torch.float64)
    # A common shift changes nothing but the rounding of sums of squares.
    centre = b.mean(dim=0)
    metric.update(a - centre, real=False)
    metric.update(b - centre, real=True)
    return float(metric.compute())
