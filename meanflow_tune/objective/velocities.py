"""Velocity fields v(x, t): of the frozen teacher, of the student's moving average, and on the path.

Classifier-free guidance is here once for each source. The two round differently: a teacher's guided
velocity is an interpolation (`lerp`), that on the path a weighted sum.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from meanflow_tune.config import Guidance
from meanflow_tune.core.jets import Engine
from meanflow_tune.core.types import PathSample, Velocity


def guided_teacher(
    net: nn.Module, guidance: Guidance | None, null_label: int | None, engine: Engine
) -> Velocity:
    """v(x, t) = net(x, t, t), with classifier-free guidance; null_label: the index of the null class.

    Without label, or with the null one, there is nothing to guide.
    """

    def velocity(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        out = engine.forward(net, x, t, t, label=label)
        if guidance is None or label is None:
            return out
        assert null_label is not None
        rows = guidance.rows(t)
        rows = rows[label[rows] != null_label]
        if len(rows) == 0:
            return out
        time = t[rows]
        null = torch.full_like(label[rows], null_label)
        free = engine.forward(net, x[rows], time, time, label=null)
        return out.index_copy(0, rows, torch.lerp(free, out[rows], guidance.scale))

    return velocity


def self_teacher(net: nn.Module, engine: Engine) -> Velocity:
    """v(x, t) = u_EMA(x, t, t); net: the student's network with the moving average as its weights."""

    def velocity(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return engine.forward(net, x, t, t, label=label)

    return velocity


def guided_path_velocity(
    path: PathSample,
    guidance: Guidance,
    null_label: int | None,
    average_velocity: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """scale · (x_1 - x_0) + (1 - scale) u(x_t, t, t) without label, [B, *D].

    MeanFlow (arXiv 2505.13447, section 4.2, with κ = 0). Samples whose label was dropped, or whose
    time is outside the interval, keep x_1 - x_0. Raises ValueError without labels or a null class.
    """
    if path.label is None or null_label is None:
        raise ValueError("guidance needs labels and a null class, but the batch has no labels.")
    rows = guidance.rows(path.t)
    rows = rows[path.label[rows] != null_label]
    if len(rows) == 0:
        return path.v_t
    null = torch.full_like(path.label[rows], null_label)
    t = path.t[rows]
    free = average_velocity(path.x_t[rows], t, t, null)
    guided = guidance.scale * path.v_t[rows] + (1.0 - guidance.scale) * free
    return path.v_t.index_copy(0, rows, guided)
