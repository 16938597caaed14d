"""Tri-consistency: an interval against its two parts, without derivatives."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import model_validator

from meanflow_tune.core.types import expand_as
from meanflow_tune.losses.base import Loss, TargetInputs, TargetParts
from meanflow_tune.losses.solver import Solver


class TriConsistency(Loss):
    """u = (1 - ρ) u(x_t, t, s - ds) + (x_s - x_{s-ds}) / Δ with ds = ρ Δ (identity 4).

    The second part, over [s - ds, s] from x_{s-ds}, is by `second_part`: the teacher's ODE with
    `solver`, or the student's own jump ds·sg[u(x_{s-ds}, s - ds, s)] (the shortcut or split form,
    which has no solver). ρ = 1/2 is dyadic, ρ = 1 the teacher's ODE over the whole interval; the
    student's own jump says nothing at ρ = 1.
    """

    kind: Literal["tri_consistency"] = "tri_consistency"
    second_part: Literal["teacher", "student"] = "teacher"
    solver: Solver | None = Solver(method="heun", steps=2)

    @model_validator(mode="before")
    @classmethod
    def _no_solver_of_a_jump(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("second_part") == "student":
            return {"solver": None, **data}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.solver is None) != (self.second_part == "student"):
            raise ValueError(
                "the teacher's second part needs a solver and the student's has none, but got "
                f"(second_part={self.second_part!r}, solver={self.solver!r})."
            )
        return self

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"u_split", "ode_velocity", "ratio"})

    def _parts(self, inputs: TargetInputs) -> TargetParts:
        ratio = expand_as(inputs.given("ratio"), inputs.u)
        # u - target = (u - T) / ρ with T the identity's right-hand side, whose limit ρ -> 0 is the
        # forward residual. Terms of order 1/ρ are differenced first: fewer digits are lost.
        change = (inputs.u - inputs.given("u_split")) / ratio
        correction = inputs.u - change - inputs.given("u_split")
        return TargetParts(velocity=inputs.given("ode_velocity"), first=correction)
