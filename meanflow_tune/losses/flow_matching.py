"""Flow matching: the velocity itself as the target at all times, u = v_t."""

from typing import Literal

from meanflow_tune.losses.identity import Coefficients, JetIdentity


class FlowMatching(JetIdentity):
    """u = v(x_t, t): exact where t = s, which is how a teacher is trained (diagonal_share = 1)."""

    kind: Literal["flow_matching"] = "flow_matching"

    @property
    def coefficients(self) -> Coefficients:
        return Coefficients(v_t=1.0)
