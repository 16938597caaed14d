"""Tri-consistency: an interval against its two parts, without derivatives."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import model_validator

from meanflow_tune.core.types import expand_as
from meanflow_tune.losses.base import Loss, TargetInputs, TargetParts
from meanflow_tune.losses.solver import Solver


class TriConsistency(Loss):
    """[t, s] is split at a distance ds = ρ Δ from one end (identity 4), by `split`:

    "end":   u = (1 - ρ) u(x_t, t, s - ds) + ρ (x_s - x_{s-ds}) / ds
    "start": u = ρ v_t + (1 - ρ) u(x_{t+ds}, t + ds, s) with x_{t+ds} = x_t + ds v_t

    The residual is divided by ρ: its limit ρ -> 0 is the residual of `forward` at the end, and of
    `backward` at the start.

    At the end the second part, over [s - ds, s] from x_{s-ds}, is by `second_part`: the teacher's
    ODE with `solver`, or the student's own jump ds·sg[u(x_{s-ds}, s - ds, s)] (the shortcut or split
    form, which has no solver). ρ = 1/2 is dyadic, ρ = 1 the teacher's ODE over the whole interval;
    the student's own jump says nothing at ρ = 1.

    At the start the second part is always the student's and there is no solver: one Euler step of
    v_t, the student from there, and no x_s. It is the discrete form of MeanFlow of α-Flow
    (arXiv 2510.20771, α = ρ, with its weight 1/α) and of SoFlow (arXiv 2512.15657). ρ = 1 is
    trajectory flow matching, u = v_t.
    """

    kind: Literal["tri_consistency"] = "tri_consistency"
    split: Literal["end", "start"] = "end"
    second_part: Literal["teacher", "student"] = "teacher"
    solver: Solver | None = Solver(method="heun", steps=2)

    @model_validator(mode="before")
    @classmethod
    def _no_solver_of_a_jump(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            if data.get("split") == "start":
                data = {"second_part": "student", **data}
            if data.get("second_part") == "student":
                return {"solver": None, **data}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.split == "start" and self.second_part == "teacher":
            raise ValueError(
                "split 'start' ends with the student's own jump, but second_part is 'teacher'; set "
                "second_part to 'student' and solver to null, or leave both out."
            )
        if (self.solver is None) != (self.second_part == "student"):
            raise ValueError(
                "the teacher's second part needs a solver and the student's has none, but got "
                f"(second_part={self.second_part!r}, solver={self.solver!r})."
            )
        return self

    @property
    def needs(self) -> frozenset[str]:
        own = {"u_after"} if self.split == "start" else {"u_split", "ode_velocity"}
        return frozenset(own | {"ratio"})

    def _parts(self, inputs: TargetInputs) -> TargetParts:
        # u - target = (u - T) / ρ with T the identity's right-hand side. Terms of order 1/ρ are
        # differenced first: fewer digits are lost.
        ratio = expand_as(inputs.given("ratio"), inputs.u)
        if self.split == "start":
            correction = (1.0 - 1.0 / ratio) * (inputs.u - inputs.given("u_after"))
            return TargetParts(velocity=inputs.v_t, first=correction)
        change = (inputs.u - inputs.given("u_split")) / ratio
        correction = inputs.u - change - inputs.given("u_split")
        return TargetParts(velocity=inputs.given("ode_velocity"), first=correction)
