"""Nodes and coefficients of difference quotients in the end time s."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stencil:
    """f'(s) ≈ Σ_k coefficients[k] · (f(nodes[k]) - f(s)), both [K, B].

    Differences from f(s) come first: coefficients that cancel each other only in exact arithmetic
    would cost digits in single precision.
    """

    nodes: Tensor
    coefficients: Tensor


def end_time_stencil(s: Tensor, step: Tensor, order: int) -> Stencil:
    """Differences of order 1 (K = 1) or 2 (K = 2) with `step` [B] > 0 at s [B] in (0, 1].

    Order 1 is (f(s + h) - f(s)) / h, and order 2 (f(s + h) - f(s - h)) / 2h. Where s + h > 1 they
    are (f(s) - f(s - h)) / h and (3 f(s) - 4 f(s - h/2) + f(s - h)) / h: no node lies above 1, and
    none below s - h. A step below the rounding of s has coefficients 0: the mixed derivative is
    multiplied by Δ² >= h², which is below the rounding of the target there. Raises ValueError for
    another order.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, but got ({order=}).")
    beyond = s + step > 1.0
    # Coefficients come from the nodes as they are after rounding: the step taken differs
    # from the one requested by a rounding of s, which may be large relative to the step.
    if order == 1:
        nodes = torch.where(beyond, s - step, s + step).unsqueeze(0)
        change = nodes - s
        return Stencil(nodes, torch.where(change == 0, 0.0, 1.0 / change))
    nodes = torch.stack([torch.where(beyond, s - 0.5 * step, s + step), s - step])
    first, second = nodes[0] - s, nodes[1] - s
    apart = first - second
    coefficients = torch.stack([-second / (first * apart), first / (second * apart)])
    lost = (first == 0) | (second == 0) | (apart == 0)
    return Stencil(nodes, torch.where(lost, 0.0, coefficients))
