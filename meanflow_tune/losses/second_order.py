"""The second-order identity, with the mixed derivative of the average velocity."""

from typing import ClassVar, Literal

from torch import Tensor

from meanflow_tune.core.types import expand_as
from meanflow_tune.losses.base import Ingredients, Loss, SignedShare


class SecondOrder(Loss):
    """u = (v(x_t, t) + v(x_s, s)) / 2 - Δ² D ∂_s u / 2 (identity 3; Zhu and Liao, 2025).

    It does not determine u alone: u + F'(t) + F'(s) - 2 (F(s) - F(t)) / Δ satisfies it for every F.
    The share may be negative, which only a mixed target allows.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"v_s", "d_t_d_s"})

    kind: Literal["second_order"] = "second_order"
    share: SignedShare = 1.0

    def _target(self, inputs: Ingredients) -> Tensor:
        gap = expand_as(inputs.path.gap, inputs.u)
        mean_velocity = 0.5 * (inputs.v_t + inputs.given("v_s"))
        return mean_velocity - 0.5 * gap.square() * inputs.given("d_t_d_s")
