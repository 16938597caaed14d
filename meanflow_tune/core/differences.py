"""Nodes and coefficients of difference quotients in the end time s."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stencil:
    """f'(s) ≈ Σ_k coefficients[k] · f(nodes[k]), both [K, B]; the first node is s itself."""

    nodes: Tensor
    coefficients: Tensor


def end_time_stencil(s: Tensor, step: Tensor, order: int) -> Stencil:
    """Differences of order 1 (K = 2) or 2 (K = 3) with `step` [B] > 0 at s [B] in (0, 1].

    Order 1 is (f(s + h) - f(s)) / h, and order 2 (f(s + h) - f(s - h)) / 2h. Where s + h > 1 they
    are (f(s) - f(s - h)) / h and (3 f(s) - 4 f(s - h/2) + f(s - h)) / h: no node lies above 1, and
    none below s - h. Raises ValueError for another order.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, but got ({order=}).")
    beyond = s + step > 1.0
    if order == 1:
        # The step as it is after rounding, or the quotient is off by a rounding of s over the step.
        node = torch.where(beyond, s - step, s + step)
        change = node - s
        return Stencil(torch.stack([s, node]), torch.stack([-1.0 / change, 1.0 / change]))
    one = torch.ones_like(s) / step
    nodes = torch.stack([s, torch.where(beyond, s - 0.5 * step, s + step), s - step])
    first = torch.where(beyond, 3.0, 0.0) * one
    second = torch.where(beyond, -4.0, 0.5) * one
    third = torch.where(beyond, 1.0, -0.5) * one
    return Stencil(nodes, torch.stack([first, second, third]))
