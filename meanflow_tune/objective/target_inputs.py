"""The inputs of the targets: u, its derivatives and velocities, from the student and a velocity field.

Every evaluation of the student is one of `average_velocity`, `_mixed_jet` and `_first_order_jet`.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from meanflow_tune.config import Annealed, TeacherOde, TrialConfig
from meanflow_tune.config.trial import COMPILED_DROPOUT
from meanflow_tune.core.jets import DropoutMasks, engine_of, without_dropout
from meanflow_tune.core.module_state import has_dropout
from meanflow_tune.core.ode import integrate, node_times
from meanflow_tune.core.rows import Rows, columns_of
from meanflow_tune.core.stencils import end_time_stencil
from meanflow_tune.core.types import Columns, PathSample, Velocity, VelocityJet, expand_as
from meanflow_tune.losses import FiniteDifference, Solver, TargetInputs, TriConsistency
from meanflow_tune.objective.velocities import GuidedTeacher, guided_path_velocity

_DERIVATIVES = frozenset({"d_s", "d_t", "d_t_d_s"})


class TargetInputMaker:
    """Computes the inputs that the active losses of `config` need, and nothing else.

    `student` is u(x, t, s, label); `field` is v(x, t, label) of the velocity source, the frozen
    teacher or the student's moving average, or None where neither is used; `null_label` is the index
    of the null class. The student runs by `engine`, which the settings `compile` and `precision`
    choose. It has no parameters.
    """

    def __init__(
        self,
        student: nn.Module,
        field: Velocity | None,
        config: TrialConfig,
        null_label: int | None = None,
    ) -> None:
        self.student = student
        self.config = config
        self.engine = engine_of(config.compile_choice.compiled, config.precision)
        self._drops = has_dropout(student)
        if self._drops and config.compile_choice.compiled:
            raise ValueError(COMPILED_DROPOUT.format(where="a network with dropout"))
        self._field = field
        self._null_label = null_label

    def prediction(self, path: PathSample) -> Tensor:
        """u(x_t, t, s) of the student, by a plain evaluation: what is trained."""
        with self._masks(path, prediction=True):
            return self._plain(path.x_t, path.t, path.s, path.label)

    def average_velocity(
        self, of: PathSample, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None
    ) -> Tensor:
        """u(x, t, s) of the student for a target, by a plain evaluation; `of` has the rows of x."""
        with self._masks(of):
            return self._plain(x, t, s, label)

    def _plain(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None) -> Tensor:
        return self.engine.forward(self.student, x, t, s, label=label)

    def _masks(self, path: PathSample, prediction: bool = False) -> AbstractContextManager[None]:
        """Surrounds one evaluation of the student with the dropout that the settings ask for."""
        if not self._drops:
            return nullcontext()
        if self.config.dropout_in_targets == "none" and not prediction:
            return without_dropout()
        return DropoutMasks(path.dropout_seed, len(path.t)).of(path.row)

    def _mixed_jet(self, path: PathSample, v_t: Tensor) -> VelocityJet:
        at = (path.x_t, path.t, path.s)
        with self._masks(path):
            return self.engine.velocity_jet(self.student, *at, v_t, label=path.label)

    def _first_order_jet(self, path: PathSample, dx: Tensor | None, dt: float, ds: float) -> Tensor:
        """The derivative of u along (dx, dt, ds), [B, *D]."""
        at = (path.x_t, path.t, path.s)
        with self._masks(path):
            jet = self.engine.directional_jet(
                self.student, *at, dx=dx, dt=dt, ds=ds, label=path.label
            )
        return jet.derivative

    @torch.no_grad()
    def velocity(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None,
        columns: Columns | None = None,
        time: Tensor | None = None,
    ) -> Tensor:
        """v(x, t) of the velocity source, [B, *D].

        time: t in the processor's memory, and columns the label. Without them a guided teacher waits for
        the device.
        """
        field = self._field
        assert field is not None
        if isinstance(field, GuidedTeacher) and columns is not None and time is not None:
            return field.at(x, t, label, field.rows(time, columns.label, x.device))
        return field(x, t, label)

    @torch.no_grad()
    def path_velocity(self, path: PathSample) -> Tensor:
        """v at (x_t, t), the target on the diagonal and the tangent of D: [B, *D].

        From scratch it is the conditional x_1 - x_0, with guidance `guided_path_velocity`.
        """
        if self.config.velocity_source == "teacher":
            columns = columns_of(path)
            return self.velocity(path.x_t, path.t, path.label, columns, columns.t)
        guidance = self.config.guidance
        if guidance is None:
            return path.v_t
        return guided_path_velocity(path, guidance, self._null_label, self.average_velocity)

    def without_derivatives(
        self, path: PathSample, u: Tensor, v_t: Tensor, progress: float
    ) -> TargetInputs:
        """All but the derivatives, for rows with t < s; u [B, *D] may carry a gradient."""
        needs = self.config.losses.needs
        found: dict[str, Tensor] = {}
        if "v_s" in needs or self.config.losses.tri_consistency is not None:
            u = self._target_u(path, u)
        if "v_s" in needs:
            columns = columns_of(path)
            x_s = self._x_at(path, u, path.s, columns, progress)
            found["v_s"] = self.velocity(x_s, path.s, path.label, columns, columns.s)
        tri = self.config.losses.tri_consistency
        if tri is not None:
            found |= self._split(path, v_t, tri, progress)
        return TargetInputs(path=path, v_t=v_t, u=u, **found)

    def with_derivatives(
        self, inputs: TargetInputs, progress: float, first_order_only: bool = False
    ) -> TargetInputs:
        """`inputs` with the derivatives that they need; first_order_only: without second_order."""
        losses = self.config.losses
        direction = losses.direction(progress) if first_order_only else None
        wanted = (losses.first_order_needs if first_order_only else losses.needs) & _DERIVATIVES
        live = losses.live - {"tri_consistency"}
        if first_order_only:
            live -= {"second_order"}
        with torch.set_grad_enabled(bool(live) and torch.is_grad_enabled()):
            if direction is None:
                found: dict[str, Any] = self._derivatives(inputs, wanted, progress)
                return replace(inputs, **found)
            # One derivative for a sum of first-order ones, all of them with a gradient or none.
            dx = direction.d_t * inputs.v_t
            sum_of_both = self._first_order_jet(inputs.path, dx, direction.d_t, direction.d_s)
            return replace(inputs, directional_derivative=sum_of_both)

    def _derivatives(
        self, inputs: TargetInputs, wanted: frozenset[str], progress: float
    ) -> dict[str, Tensor]:
        """∂_s u, D u and D ∂_s u, those in `wanted`; a single first-order one costs two components."""
        path, v_t = inputs.path, inputs.v_t
        derivative = self.config.losses.derivative
        if isinstance(derivative, FiniteDifference) and "d_t_d_s" in wanted:
            d_s = self._derivatives(inputs, wanted & {"d_s"}, progress)
            return self._differences(path, v_t, derivative.order, progress) | d_s
        if not wanted:
            return {}
        if wanted == {"d_t"}:
            return {"d_t": self._first_order_jet(path, v_t, 1.0, 0.0)}
        if wanted == {"d_s"}:
            return {"d_s": self._first_order_jet(path, None, 0.0, 1.0)}
        full = self._mixed_jet(path, v_t)
        return {"d_s": full.d_s, "d_t": full.d_t, "d_t_d_s": full.d_t_d_s}

    def _differences(
        self, path: PathSample, v_t: Tensor, order: int, progress: float
    ) -> dict[str, Tensor]:
        """D u, and D ∂_s u by differences of it in s, in one first-order pass over all nodes."""
        _refuse_half_precision(path.x_t)
        stencil = end_time_stencil(path.s, self._ratio(path.gap, progress) * path.gap, order)
        count = 1 + len(stencil.nodes)
        nodes = _repeat(path, count, s=torch.cat([path.s, stencil.nodes.flatten()]))
        slopes = self._first_order_jet(nodes, torch.cat([v_t] * count), 1.0, 0.0)
        _refuse_half_precision(slopes)
        each = slopes.reshape(count, *path.x_t.shape)
        mixed = torch.zeros_like(each[0])
        for coefficient, slope in zip(stencil.coefficients, each[1:], strict=True):
            mixed = mixed + expand_as(coefficient, slope) * (slope - each[0])
        return {"d_t": each[0], "d_t_d_s": mixed}

    def _target_u(self, path: PathSample, u: Tensor) -> Tensor:
        """u of the targets: the prediction, or a pass without dropout where targets have none.

        It has a gradient where `u` has one.
        """
        if not self._drops or self.config.dropout_in_targets == "same":
            return u
        with torch.set_grad_enabled(u.requires_grad):
            return self.average_velocity(path, path.x_t, path.t, path.s, path.label)

    @torch.no_grad()
    def _x_at(
        self, path: PathSample, u: Tensor, end: Tensor, columns: Columns, progress: float
    ) -> Tensor:
        """x at time `end` [B] from x_t, by the setting x_source; u [B, *D] jumps from t to `end`.

        columns: those of the path, with `end` as s.
        """
        source = self.config.x_source
        share = source.teacher_share(progress)
        if share >= 1.0:
            return self._ode(path.x_t, path.t, end, path.label, columns, self._solver)
        jump = path.x_t + expand_as(end - path.t, u) * u
        if share <= 0.0:
            return jump
        if columns.ode_draw is None:
            raise ValueError(
                f"x_source {source.kind!r} draws rows by PathSample.ode_draw, but it is None."
            )
        # By a draw of each row, not by its place in the batch of a rank: the gradient of a global
        # batch does not depend on the number of ranks.
        rows = Rows.where(columns.ode_draw < share, jump.device)
        if len(rows) == 0:
            return jump
        some, at = select_path(path, rows), take(end, rows)
        moved = self._ode(
            some.x_t, some.t, at, some.label, select_columns(columns, rows), self._solver
        )
        return jump.index_copy(0, rows.here, moved)

    @property
    def _solver(self) -> Solver:
        source = self.config.x_source
        assert isinstance(source, TeacherOde | Annealed)
        return source.solver

    @torch.no_grad()
    def _ode(
        self,
        x: Tensor,
        start: Tensor,
        end: Tensor,
        label: Tensor | None,
        columns: Columns,
        solver: Solver,
    ) -> Tensor:
        """columns: start and end as t and s, and the label, in the processor's memory."""
        times = iter(
            node_times(columns.t, columns.s, solver.steps, solver.method)
            if isinstance(self._field, GuidedTeacher) and x.device.type != "cpu"
            else ()
        )

        def velocity(y: Tensor, t: Tensor) -> Tensor:
            return self.velocity(y, t, label, columns, next(times, t))

        return integrate(velocity, x, start, end, solver.steps, solver.method)

    def _split(
        self, path: PathSample, v_t: Tensor, tri: TriConsistency, progress: float
    ) -> dict[str, Tensor]:
        """Of tri-consistency: [t, s] split at ds = ρ (s - t) from one end, and the parts."""
        ratio = self._ratio(path.gap, progress)
        ds = ratio * path.gap
        live = torch.is_grad_enabled() and not tri.stop_gradient
        if tri.split == "start":
            x_after = path.x_t + expand_as(ds, v_t) * v_t
            with torch.set_grad_enabled(live):
                u_after = self.average_velocity(path, x_after, path.t + ds, path.s, path.label)
            return {"u_after": u_after, "ratio": ratio}
        middle, columns = path.s - ds, columns_of(path)
        before, after = replace(columns, s=middle), replace(columns, t=middle)
        if path.columns is not None:  # the same numbers in the processor's memory
            on_host = columns.s - self._ratio(columns.gap, progress) * columns.gap
            before, after = replace(columns, s=on_host), replace(columns, t=on_host)
        with torch.set_grad_enabled(live):
            u_split = self.average_velocity(path, path.x_t, path.t, middle, path.label)
        with torch.no_grad():
            x_split = self._x_at(path, u_split, middle, before, progress)
            if tri.solver is None:
                velocity = self.average_velocity(path, x_split, middle, path.s, path.label)
            else:
                end = self._ode(x_split, middle, path.s, path.label, after, tri.solver)
                velocity = (end - x_split) / expand_as(ds, x_split)
        return {"u_split": u_split, "ode_velocity": velocity, "ratio": ratio}

    def _ratio(self, gap: Tensor, progress: float) -> Tensor:
        assert self.config.ds_schedule is not None
        return self.config.ds_schedule.ratio(progress, gap)


def take(tensor: Tensor, rows: Rows | None) -> Tensor:
    """The given rows of a tensor; None for all, without a copy."""
    return tensor if rows is None else tensor[rows.here]


def select(inputs: TargetInputs, rows: Rows | None) -> TargetInputs:
    """The given rows of all inputs; None for all."""
    found = {name: take(tensor, rows) for name, tensor in _tensors(inputs).items()}
    return replace(inputs, path=select_path(inputs.path, rows), **found)


def select_path(path: PathSample, rows: Rows | None) -> PathSample:
    """The given rows of a path; None for all."""
    if rows is None:
        return path
    columns = None if path.columns is None else select_columns(path.columns, rows)
    found: dict[str, Any] = {name: take(tensor, rows) for name, tensor in _tensors(path).items()}
    return replace(path, columns=columns, **found)


def select_columns(columns: Columns, rows: Rows) -> Columns:
    """The given rows in the processor's memory."""
    return replace(columns, **{name: x[rows.host] for name, x in _tensors(columns).items()})


def _repeat(path: PathSample, count: int, s: Tensor) -> PathSample:
    """`count` copies of a path one after another, with end times s [count · B]."""
    copies: dict[str, Any] = {
        name: torch.cat([tensor] * count) for name, tensor in _tensors(path).items()
    }
    return replace(path, columns=None, **(copies | {"s": s}))


def _tensors(record: TargetInputs | PathSample | Columns) -> dict[str, Any]:
    found = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _refuse_half_precision(x: Tensor) -> None:
    if x.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            "losses.derivative 'finite_difference' needs float32 or float64: in half precision "
            f"rounding exceeds the difference, but got ({x.dtype}, autocast "
            f"{torch.is_autocast_enabled(x.device.type)}); take 'exact'."
        )
