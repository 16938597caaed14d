"""The forward identity, differentiated at the end time: u = v_s - Δ ∂_s u."""

from typing import Literal

from meanflow_tune.losses.identity import Coefficients, JetIdentity


class Forward(JetIdentity):
    """u = v(x_s, s) - Δ ∂_s u (identity 2), with x_s on the trajectory through x_t."""

    kind: Literal["forward"] = "forward"

    @property
    def coefficients(self) -> Coefficients:
        return Coefficients(v_s=1.0, d_s=-1.0)
