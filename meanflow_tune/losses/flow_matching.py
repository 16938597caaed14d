"""Flow matching: the velocity itself as the target, at whatever times."""

from typing import ClassVar, Literal

from torch import Tensor

from meanflow_tune.losses.base import Ingredients, Loss


class FlowMatching(Loss):
    """u = v(x_t, t): exact where t = s, which is how a teacher is trained (diagonal_share = 1)."""

    needs: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["flow_matching"] = "flow_matching"

    def _target(self, inputs: Ingredients) -> Tensor:
        return inputs.v_t
