"""From an unreduced residual [B, *D] to one number, in one place."""

from torch import Tensor


def per_sample_mean_square(residual: Tensor) -> Tensor:
    """The mean over *D of the squared residual [B, *D]: [B]."""
    return residual.square().reshape(len(residual), -1).mean(dim=1)


def adaptive_weight(mean_square: Tensor, power: float, epsilon: float) -> Tensor:
    """1 / (mean_square + epsilon)^power, [B], without gradient; power 0 weighs all alike.

    The adaptive weight of MeanFlow (arXiv 2505.13447), with the mean over dimensions for its sum.
    """
    return (mean_square.detach() + epsilon).pow(-power)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """The mean over the batch of weight · values, both [B]; not divided by the sum of the weights.

    Raises ValueError on different shapes, which would broadcast to [B, B].
    """
    if values.shape != weight.shape:
        raise ValueError(
            "`values.shape == weight.shape` must hold, "
            f"but got {tuple(values.shape)} and {tuple(weight.shape)}."
        )
    return (values * weight).mean()
