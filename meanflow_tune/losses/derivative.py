"""How the mixed derivative D ∂_s u of a target is computed: exactly or by differences in s."""

from typing import Annotated, Literal

from pydantic import Field

from meanflow_tune.settings import Settings


class Exact(Settings):
    """By one derivative pass, which gives (u, ∂_s u, D u, D ∂_s u)."""

    kind: Literal["exact"] = "exact"


class FiniteDifference(Settings):
    """By differences in s of the exact D u, with the step ds = ρ Δ of the ds schedule.

    order: 1 is the forward difference, backward where s + ds > 1; 2 is the central one, and where
    s + ds > 1 the one-sided one of the same order with half the step. No node leaves [t, 1]. Single
    precision is needed: in half precision rounding is larger than the differences at every step.
    """

    kind: Literal["finite_difference"] = "finite_difference"
    order: Literal[1, 2] = 1


MixedDerivative = Annotated[Exact | FiniteDifference, Field(discriminator="kind")]
