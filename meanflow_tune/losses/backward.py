"""The backward identity, which is MeanFlow's."""

from typing import ClassVar, Literal

from torch import Tensor

from meanflow_tune.core.types import expand_as
from meanflow_tune.losses.base import Ingredients, Loss


class Backward(Loss):
    """u = v(x_t, t) + Δ D u (identity 1; MeanFlow, arXiv 2505.13447, with time reversed)."""

    needs: ClassVar[frozenset[str]] = frozenset({"d_t"})

    kind: Literal["backward"] = "backward"

    def _target(self, inputs: Ingredients) -> Tensor:
        gap = expand_as(inputs.path.gap, inputs.u)
        return inputs.v_t + gap * inputs.given("d_t")
