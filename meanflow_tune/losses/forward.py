"""The forward identity: the average velocity followed at its end."""

from typing import ClassVar, Literal

from torch import Tensor

from meanflow_tune.core.types import expand_as
from meanflow_tune.losses.base import Ingredients, Loss


class Forward(Loss):
    """u = v(x_s, s) - Δ ∂_s u (identity 2), with x_s on the trajectory through x_t."""

    needs: ClassVar[frozenset[str]] = frozenset({"v_s", "d_s"})

    kind: Literal["forward"] = "forward"

    def _target(self, inputs: Ingredients) -> Tensor:
        gap = expand_as(inputs.path.gap, inputs.u)
        return inputs.given("v_s") - gap * inputs.given("d_s")
