"""How the residual of a sample becomes its loss, [B, *D] -> [B]: robust norms and weights."""

from typing import Annotated

from meanflow_tune.settings import OneOf
from meanflow_tune.weightings.adaptive import Adaptive as Adaptive
from meanflow_tune.weightings.base import WeightingModule as WeightingModule
from meanflow_tune.weightings.base import WeightingSettings as WeightingSettings
from meanflow_tune.weightings.log_variance import LogVariance as LogVariance
from meanflow_tune.weightings.pseudo_huber import PseudoHuber as PseudoHuber

WEIGHTING_KINDS = WeightingSettings.members()
AnyWeighting = Annotated[WeightingSettings, OneOf(WEIGHTING_KINDS)]
