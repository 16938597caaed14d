"""The backward identity of MeanFlow: u = v_t + Δ D u."""

from typing import Literal

from meanflow_tune.losses.identity import Coefficients, JetIdentity


class Backward(JetIdentity):
    """u = v(x_t, t) + Δ D u (identity 1; MeanFlow, arXiv 2505.13447, with time reversed)."""

    kind: Literal["backward"] = "backward"

    @property
    def coefficients(self) -> Coefficients:
        return Coefficients(v_t=1.0, d_t=1.0)
