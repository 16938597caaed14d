"""Kolmogorov-Smirnov distances of samples from distributions and from each other."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
SIGNIFICANT = 1.95  # of √n · the distance: exceeded once in 1000
POINTS = 2_000


def distance(draws: Tensor, cdf: Callable[[Tensor], Tensor]) -> float:
    """√n · the Kolmogorov-Smirnov distance of draws [n] from a distribution, which may have atoms.

    It is taken half-way between neighbouring draws, at most POINTS times.
    """
    values, counts = draws.double().unique(return_counts=True)
    if len(values) == 1:
        below = torch.tensor([0.0], dtype=torch.float64)
        between = 0.5 * values
    else:
        between = 0.5 * (values[1:] + values[:-1])
        below = counts.cumsum(0)[:-1] / len(draws)
    step = 1 + len(between) // POINTS
    gap = (below[::step] - cdf(between[::step])).abs().max()
    return float(gap) * math.sqrt(len(draws))


def two_sample_distance(first: Array, second: Array) -> float:
    """The same between two samples; ties count as one point."""
    points = np.unique(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(x), points, side="right") / len(x) for x in (first, second)]
    n = len(first) * len(second) / (len(first) + len(second))
    return float(np.abs(shares[0] - shares[1]).max()) * math.sqrt(n)
