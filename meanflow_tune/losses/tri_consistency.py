"""Tri-consistency: two parts of an interval against the whole, without derivatives."""

from typing import ClassVar, Literal

from torch import Tensor

from meanflow_tune.core.types import expand_as
from meanflow_tune.losses.base import Ingredients, Loss
from meanflow_tune.losses.solver import Solver


class TriConsistency(Loss):
    """u = (1 - ρ) u(x_t, t, s - ds) + (x_s - x_{s-ds}) / Δ with ds = ρ Δ (identity 4).

    The second part is the teacher's ODE from x_{s-ds}, by `solver`. ρ = 1/2 is the shortcut form,
    ρ = 1 the teacher's ODE over the whole interval.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"u_split", "ode_velocity", "ratio"})

    kind: Literal["tri_consistency"] = "tri_consistency"
    solver: Solver = Solver(method="heun", steps=2)

    def _target(self, inputs: Ingredients) -> Tensor:
        ratio = expand_as(inputs.given("ratio"), inputs.u)
        # u - target = (u - T) / ρ with T the identity's right-hand side, whose limit ρ -> 0 is the
        # forward residual. Terms of order 1/ρ are differenced first: fewer digits are lost.
        change = (inputs.u - inputs.given("u_split")) / ratio
        return inputs.u - change - inputs.given("u_split") + inputs.given("ode_velocity")
