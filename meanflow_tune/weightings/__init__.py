"""How the residual of a sample becomes its loss: robust norms and weights."""

from typing import Annotated

from pydantic import Field

from meanflow_tune.weightings.adaptive import Adaptive
from meanflow_tune.weightings.base import WeightingModule, WeightingSettings
from meanflow_tune.weightings.log_variance import LogVariance
from meanflow_tune.weightings.pseudo_huber import PseudoHuber

AnyWeighting = Annotated[Adaptive | PseudoHuber | LogVariance, Field(discriminator="kind")]
WEIGHTING_KINDS = (Adaptive, PseudoHuber, LogVariance)

__all__ = [
    "WEIGHTING_KINDS",
    "Adaptive",
    "AnyWeighting",
    "LogVariance",
    "PseudoHuber",
    "WeightingModule",
    "WeightingSettings",
]
