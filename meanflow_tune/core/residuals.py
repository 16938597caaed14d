"""Sizes, weights and bounds of residuals and corrections [B, *D], one number per sample."""

import torch
from torch import Tensor

from meanflow_tune.core.types import expand_as


def per_sample_mean_square(residual: Tensor) -> Tensor:
    """The mean over *D of the squared residual [B, *D]: [B]."""
    return residual.square().reshape(len(residual), -1).mean(dim=1)


def adaptive_weight(mean_square: Tensor, power: float, epsilon: float) -> Tensor:
    """1 / (mean_square + epsilon)^power, [B], without gradient; power 0 weighs all alike.

    The adaptive weight of MeanFlow (arXiv 2505.13447), with the mean over dimensions for its sum.
    """
    return (mean_square.detach() + epsilon).pow(-power)


def bound_factor(correction: Tensor, bound: float) -> Tensor:
    """The factor in (0, 1], [B], that brings the root mean square of each sample [B, *D] to `bound`.

    It is 1 where that is at most `bound`, and carries no gradient.
    """
    size = per_sample_mean_square(correction.detach()).sqrt()
    return (bound / size.clamp_min(bound)).to(correction.dtype)


def limited(correction: Tensor, bound: float) -> Tensor:
    """`correction` [B, *D] with the root mean square of each sample at most `bound`."""
    return expand_as(bound_factor(correction, bound), correction) * correction


def mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """The mean over samples of the cosine between a and b, both [B, *D]; a zero one counts as 0."""
    return torch.cosine_similarity(a.flatten(1), b.flatten(1), dim=1).mean()
