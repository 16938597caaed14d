"""Objective: network, teacher and losses as one module, PathSample -> LossOutput.

This is what DistributedDataParallel wraps, so that the derivative pass and the plain forward happen
inside one `forward` and the gradients of all ranks are averaged.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from meanflow_tune.config import Annealed, TeacherOde, TrialConfig
from meanflow_tune.core.engine import EAGER, compiled
from meanflow_tune.core.ode import integrate
from meanflow_tune.core.types import LossOutput, PathSample, Velocity, expand_as
from meanflow_tune.core.weighting import adaptive_weight, per_sample_mean_square, weighted_mean
from meanflow_tune.losses import Ingredients, Solver

_DERIVATIVES = frozenset({"d_s", "d_t", "d_t_d_s"})
_SPLIT = frozenset({"x_split", "u_split", "ode_velocity", "ratio"})


class Objective(nn.Module):
    """The training loss of `config` for `student`, with targets behind a stop-gradient.

    The student runs by `engine`, which the setting `compile` chooses. `teacher` is v_phi(x, t, label);
    it is held outside the module's parameters, so it is neither
    trained nor synchronised. None means the conditional velocity x_1 - x_0 (flow matching only).
    """

    def __init__(self, student: nn.Module, teacher: Velocity | None, config: TrialConfig) -> None:
        super().__init__()
        self.student = student
        self.config = config
        self.engine = compiled() if config.compile else EAGER
        self._teacher = (teacher,)  # in a tuple, or nn.Module would register it

    def forward(self, path: PathSample, progress: float) -> LossOutput:
        """path: the batch; progress: images seen / images of the budget, in [0, 1].

        The loss is the mean over samples of weight · mean-square residual. Terms are detached.
        """
        label = path.label
        u = self._student(path, path.s)
        v_t = self._velocity(path.x_t, path.t, label) if self._teacher[0] is not None else path.v_t
        residual = u - v_t  # the diagonal t = s, where every identity is flow matching
        terms: dict[str, Tensor] = {}
        # Derivatives and teacher calls are paid for only where the times differ.
        rows = (path.gap > 0).nonzero().squeeze(1)
        if len(rows) > 0 and set(self.config.losses.active) != {"flow_matching"}:
            whole = len(rows) == len(u)
            part = path if whole else _select(path, rows)
            u_part = u if whole else u[rows]
            inputs = self._ingredients(part, u_part.detach(), v_t if whole else v_t[rows], progress)
            mixed, each = self.config.losses.combine(u_part, inputs, progress)
            residual = mixed if whole else residual.index_copy(0, rows, mixed)
            terms = {
                f"residual/{name}": per_sample_mean_square(r).mean() for name, r in each.items()
            }
        mean_square = per_sample_mean_square(residual)
        weight = adaptive_weight(
            mean_square, self.config.weighting.power, self.config.weighting.epsilon
        )
        loss = weighted_mean(mean_square, weight)
        terms |= {"residual": mean_square.detach().mean(), "loss": loss.detach()}
        if not torch.isfinite(loss):
            # Poison the gradient: the averaged one then is non-finite on every rank, and all of them
            # end the trial at the same step.
            loss = u.mean() * float("nan")
        return LossOutput(loss, terms)

    def _student(self, path: PathSample, end: Tensor) -> Tensor:
        """u(x_t, t, end), with gradient where it is recorded; end [B]."""
        extra = {} if path.label is None else {"label": path.label}
        return self.engine.forward(self.student, path.x_t, path.t, end, **extra)

    @torch.no_grad()
    def _velocity(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        teacher = self._teacher[0]
        assert teacher is not None
        return teacher(x, t, label)

    @torch.no_grad()
    def _ode(
        self, x: Tensor, start: Tensor, end: Tensor, label: Tensor | None, solver: Solver
    ) -> Tensor:
        def velocity(y: Tensor, t: Tensor) -> Tensor:
            return self._velocity(y, t, label)

        return integrate(velocity, x, start, end, solver.steps, solver.method)

    @torch.no_grad()
    def _ingredients(
        self, path: PathSample, u: Tensor, v_t: Tensor, progress: float
    ) -> Ingredients:
        """All that the active losses need and nothing else; rows have t < s; u is detached."""
        needs = self.config.losses.needs
        found: dict[str, Tensor] = {}
        if "v_s" in needs:
            x_s = self._x_at(path, u, path.s, progress)
            found["v_s"] = self._velocity(x_s, path.s, path.label)
        found |= self._derivatives(path, v_t, needs & _DERIVATIVES)
        if needs & _SPLIT:
            found |= self._split(path, u, progress)
        return Ingredients(path=path, v_t=v_t, u=u, **{name: found.get(name) for name in _OPTIONAL})

    def _x_at(self, path: PathSample, u: Tensor, end: Tensor, progress: float) -> Tensor:
        """x at time `end` [B] from x_t, by the setting x_source; u [B, *D] jumps from t to `end`."""
        jump = path.x_t + expand_as(end - path.t, u) * u
        source = self.config.x_source
        count = round(source.teacher_share(progress) * len(u))
        if count == 0:
            return jump
        assert isinstance(source, TeacherOde | Annealed)
        label = None if path.label is None else path.label[:count]
        exact = self._ode(path.x_t[:count], path.t[:count], end[:count], label, source.solver)
        return torch.cat([exact, jump[count:]])

    def _derivatives(
        self, path: PathSample, v_t: Tensor, wanted: frozenset[str]
    ) -> Mapping[str, Tensor]:
        """The wanted ones of ∂_s u, D u and D ∂_s u; a single first-order one costs two components."""
        if not wanted:
            return {}
        at = (path.x_t, path.t, path.s)
        extra = {} if path.label is None else {"label": path.label}
        if wanted == {"d_t"}:
            jet = self.engine.directional_jet(self.student, *at, dx=v_t, dt=1.0, ds=0.0, **extra)
            return {"d_t": jet.derivative}
        if wanted == {"d_s"}:
            jet = self.engine.directional_jet(self.student, *at, dx=None, dt=0.0, ds=1.0, **extra)
            return {"d_s": jet.derivative}
        full = self.engine.velocity_jet(self.student, *at, v_t, **extra)
        return {"d_s": full.d_s, "d_t": full.d_t, "d_t_d_s": full.d_t_d_s}

    def _split(self, path: PathSample, u: Tensor, progress: float) -> Mapping[str, Tensor]:
        """Tri-consistency: [t, s] split at s - ds with ds = ρ (s - t), and the teacher over the rest."""
        schedule, tri = self.config.ds_schedule, self.config.losses.tri_consistency
        assert schedule is not None
        assert tri is not None
        ratio = schedule.ratio(progress, path.gap)
        middle = path.s - ratio * path.gap
        u_split = self._student(path, middle)
        x_split = self._x_at(path, u_split, middle, progress)
        end = self._ode(x_split, middle, path.s, path.label, tri.solver)
        velocity = (end - x_split) / expand_as(ratio * path.gap, x_split)
        return {"x_split": x_split, "u_split": u_split, "ode_velocity": velocity, "ratio": ratio}


_OPTIONAL = ("v_s", "d_s", "d_t", "d_t_d_s", *sorted(_SPLIT))


def _select(path: PathSample, rows: Tensor) -> PathSample:
    label = None if path.label is None else path.label[rows]
    x_0, x_1, x_t, v_t, t, s = (
        tensor[rows] for tensor in (path.x_0, path.x_1, path.x_t, path.v_t, path.t, path.s)
    )
    return PathSample(x_0, x_1, x_t, v_t, t, s, label)
