"""Velocity fields v(x, t): of the frozen teacher, of the student's moving average, and on the path.

Classifier-free guidance is here once for each source. The two round differently: a teacher's guided
velocity is an interpolation (`lerp`), that on the path a weighted sum.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from meanflow_tune.config import Guidance
from meanflow_tune.core.jets import Engine
from meanflow_tune.core.rows import Rows, columns_of
from meanflow_tune.core.types import PathSample, Velocity


class GuidedTeacher:
    """v(x, t) = net(x, t, t), with classifier-free guidance; null_label: the index of the null class.

    Without label, or with the null one, there is nothing to guide.
    """

    def __init__(
        self, net: nn.Module, guidance: Guidance | None, null_label: int | None, engine: Engine
    ) -> None:
        self._net, self._guidance, self._null_label = net, guidance, null_label
        self._engine = engine

    def rows(self, t: Tensor, label: Tensor | None, device: torch.device) -> Rows | None:
        """The rows to be guided, None where none is to be; t and label [B] in the processor's memory."""
        if self._guidance is None or label is None:
            return None
        assert self._null_label is not None
        rows = self._guidance.rows(t)
        rows = rows[label[rows] != self._null_label]
        return Rows.of(rows, device) if len(rows) > 0 else None

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        found = self.rows(t.cpu(), None if label is None else label.cpu(), x.device)
        return self.at(x, t, label, found)

    def at(self, x: Tensor, t: Tensor, label: Tensor | None, rows: Rows | None) -> Tensor:
        """v(x, t), guided in `rows`."""
        out = self._engine.forward(self._net, x, t, t, label=label)
        if rows is None:
            return out
        assert self._guidance is not None
        assert self._null_label is not None
        assert label is not None
        here = rows.here
        time = t[here]
        null = torch.full_like(label[here], self._null_label)
        free = self._engine.forward(self._net, x[here], time, time, label=null)
        return out.index_copy(0, here, torch.lerp(free, out[here], self._guidance.scale))


def self_teacher(net: nn.Module, engine: Engine) -> Velocity:
    """v(x, t) = u_EMA(x, t, t); net: the student's network with the moving average as its weights."""

    def velocity(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return engine.forward(net, x, t, t, label=label)

    return velocity


def guided_path_velocity(
    path: PathSample,
    guidance: Guidance,
    null_label: int | None,
    average_velocity: Callable[[PathSample, Tensor, Tensor, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """scale · (x_1 - x_0) + (1 - scale) u(x_t, t, t) without label, [B, *D].

    MeanFlow (arXiv 2505.13447, section 4.2, with κ = 0). Samples whose label was dropped, or whose
    time is outside the interval, keep x_1 - x_0. Raises ValueError without labels or a null class.
    """
    if path.label is None or null_label is None:
        raise ValueError("guidance needs labels and a null class, but the batch has no labels.")
    columns = columns_of(path)
    assert columns.label is not None
    chosen = guidance.rows(columns.t)
    chosen = chosen[columns.label[chosen] != null_label]
    if len(chosen) == 0:
        return path.v_t
    rows = Rows.of(chosen, path.t.device).here
    null = torch.full_like(path.label[rows], null_label)
    t = path.t[rows]
    of = path if path.row is None else replace(path, t=t, row=path.row[rows])
    free = average_velocity(of, path.x_t[rows], t, t, null)
    guided = guidance.scale * path.v_t[rows] + (1.0 - guidance.scale) * free
    return path.v_t.index_copy(0, rows, guided)
