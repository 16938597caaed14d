"""The generalized second-order identity, with parameters α and β."""

from typing import Annotated, Literal

from pydantic import Field

from meanflow_tune.losses.identity import Coefficients, JetIdentity


class Generalized(JetIdentity):
    """u = α v_t + (1 - α) v_s + Δ ((α - β/2) D u - (1 - α - β/2) ∂_s u) - β/2 Δ² D ∂_s u.

    Identity 5: the mixture of backward, forward and second order with the weights α - β/2,
    1 - α - β/2 and β, as one target; (1, 0) is backward, (0, 0) forward and (1/2, 1) second order.
    beta may be negative in either form of a mixture, because the target is regressed on as a whole.
    """

    kind: Literal["generalized"] = "generalized"
    alpha: Annotated[float, Field(ge=-1.0, le=2.0)] = 0.5
    beta: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.1

    @property
    def coefficients(self) -> Coefficients:
        alpha, beta = self.alpha, self.beta
        return Coefficients(
            v_t=alpha,
            v_s=1.0 - alpha,
            d_t=alpha - 0.5 * beta,
            d_s=-(1.0 - alpha - 0.5 * beta),
            d_t_d_s=-0.5 * beta,
        )
