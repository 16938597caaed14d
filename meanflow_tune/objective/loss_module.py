"""The objective: network, velocity source and losses as one module, PathSample -> LossOutput.

The loss is mean_b Σ_i w_i ρ(u - T_i), with ρ the weighting of residuals. DistributedDataParallel
wraps this module, so that the derivative pass and the plain forward happen inside one `forward` and
the gradients of all ranks are averaged.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.random import make_generator
from meanflow_tune.core.residuals import per_sample_mean_square
from meanflow_tune.core.rows import Rows, columns_of
from meanflow_tune.core.types import LossOutput, PathSample, Velocity
from meanflow_tune.losses import Combined, combine
from meanflow_tune.objective.target_inputs import TargetInputMaker, select, select_path, take


class Objective(nn.Module):
    """The training loss of `config` for `student`, with the parameters of its weighting.

    `teacher` is v(x, t, label) of the velocity source: the frozen v_phi, or from scratch the moving
    average of the student. It is no parameter of this module: neither trained nor synchronised. It
    may be None where every loss is flow matching from scratch. `null_label` is the index of the null
    class, where there is one.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Velocity | None,
        config: TrialConfig,
        null_label: int | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.config = config
        self.weighting = config.weighting.build(make_generator(config.seed, "weighting"))
        self.input_maker = TargetInputMaker(student, teacher, config, null_label)

    def forward(self, path: PathSample, progress: float) -> LossOutput:
        """path: the batch; progress: images seen / images of the budget, in [0, 1].

        The loss is the mean over samples of the weighting of each residual, summed with the weights
        of the mixture. Terms are detached.
        """
        maker, losses = self.input_maker, self.config.losses
        u = maker.prediction(path)
        v_t = maker.path_velocity(path)
        batch = _Batch(u - v_t)  # the diagonal t = s, where every identity is flow matching
        # Derivatives and teacher calls are paid for only where the times differ.
        off = Rows.where(columns_of(path).gap > 0, u.device)
        if len(off) > 0 and set(losses.active) != {"flow_matching"}:
            rows = None if len(off) == len(u) else off
            u_off = take(u, rows)
            inputs = maker.without_derivatives(
                select_path(path, rows),
                u_off if losses.live else u_off.detach(),
                take(v_t, rows),
                progress,
            )
            for group, first_order_only in self._groups(inputs.path):
                some = maker.with_derivatives(select(inputs, group), progress, first_order_only)
                combined = combine(losses, take(u_off, group), some, progress, first_order_only)
                batch.put(group if rows is None else rows.take(group), combined)
        return self._reduce(batch, path)

    def _groups(self, path: PathSample) -> Iterator[tuple[Rows | None, bool]]:
        """(rows, first_order_only): those with a second-order pass (None for all), then the others."""
        fraction = self.config.losses.fraction
        if fraction == 1.0:
            yield None, False
            return
        draw = columns_of(path).uniform_draw
        if draw is None:
            raise ValueError(
                f"second_order.fraction {fraction:g} draws rows by PathSample.uniform_draw, but it is "
                "None."
            )
        drawn = draw < fraction
        for chosen, first_order_only in ((drawn, False), (~drawn, True)):
            rows = Rows.where(chosen, path.t.device)
            if len(rows) > 0:
                yield rows, first_order_only

    def _reduce(self, batch: "_Batch", path: PathSample) -> LossOutput:
        mean_square = torch.zeros_like(path.t, dtype=batch.diagonal.dtype)
        each = torch.zeros_like(mean_square)
        for weight, residual in batch.weighted():
            square = per_sample_mean_square(residual)
            value = self.weighting(residual, square, path.t, path.s)
            mean_square = mean_square + weight * square.detach()
            each = each + weight * value
        loss = each.mean()
        terms = batch.terms | {"residual": mean_square.mean(), "loss": loss.detach()}
        # Not finite, it poisons the gradient: the average is then not finite on any rank, and all of them
        # end the trial at the same step. A factor, because a branch would wait for a device.
        return LossOutput(loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan), terms)


@dataclass
class _Batch:
    """The residuals of a batch, assembled from the diagonal and the groups of rows.

    diagonal [B, *D] holds u - v_t. Each named residual starts as that, and its weight, [B] or one
    number, as that of the first group put.
    """

    diagonal: Tensor
    residuals: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor | float] = field(default_factory=dict)
    terms: dict[str, Tensor] = field(default_factory=dict)

    def put(self, rows: Rows | None, combined: Combined) -> None:
        """Residuals and weights of `rows`, None for all. Terms are kept of the first group only."""
        if not self.residuals:
            self.weights.update(combined.weights)
            self.terms |= combined.terms
        for name, residual in combined.residuals.items():
            before = self.residuals.get(name, self.diagonal)
            self.residuals[name] = (
                residual if rows is None else before.index_copy(0, rows.here, residual)
            )
        if rows is None or combined.weights == self.weights:
            return
        ones = self.diagonal.new_ones(len(self.diagonal))
        for name, weight in self.weights.items():
            other = combined.weights.get(name, 0.0)
            self.weights[name] = (weight * ones).index_fill(0, rows.here, other)

    def weighted(self) -> Iterator[tuple[Tensor | float, Tensor]]:
        """Pairs of a weight and a residual [B, *D]."""
        if not self.residuals:
            yield 1.0, self.diagonal
        for name, residual in self.residuals.items():
            yield self.weights[name], residual
