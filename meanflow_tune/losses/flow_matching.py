"""Flow matching on the diagonal, u = v_t at t = s."""

from typing import Literal

from meanflow_tune.losses.identity import Coefficients, JetIdentity


class FlowMatching(JetIdentity):
    """u = v(x_t, t), which is exact at t = s only: how a teacher is trained, with diagonal_share = 1.

    At t < s it would train the velocity as the average velocity. New configurations are therefore
    refused beside other losses and with a smaller diagonal share (`config.effects`); stored ones load.
    """

    kind: Literal["flow_matching"] = "flow_matching"

    @property
    def coefficients(self) -> Coefficients:
        return Coefficients(v_t=1.0)
