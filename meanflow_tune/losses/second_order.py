"""The second-order identity: u = (v_t + v_s) / 2 - Δ² D ∂_s u / 2."""

from typing import Annotated, Literal

from pydantic import Field

from meanflow_tune.losses.base import SignedShare
from meanflow_tune.losses.identity import Coefficients, JetIdentity


class SecondOrder(JetIdentity):
    """u = (v(x_t, t) + v(x_s, s)) / 2 - Δ² D ∂_s u / 2 (identity 3; Zhu and Liao, 2025).

    It does not determine u alone: u + F'(t) + F'(s) - 2 (F(s) - F(t)) / Δ satisfies it for every F.
    The share may be negative, which only a mixed target allows.

    fraction: the share f of the rows with t < s that get the second-order pass. The others are
    trained by the rest of the mixture, its weights w_i divided by 1 - w, with w the weight of this
    loss. Rows are drawn independently of times and data, so that under a squared error the expected
    gradient is that of the mixture in which this loss has the weight f·w and every other
    one w_i (1 - f·w) / (1 - w). f < 1 needs another loss.
    """

    kind: Literal["second_order"] = "second_order"
    share: SignedShare = 1.0
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0

    @property
    def coefficients(self) -> Coefficients:
        return Coefficients(v_t=0.5, v_s=0.5, d_t_d_s=-0.5)
