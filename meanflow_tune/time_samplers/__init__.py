"""Distributions of the pairs of times (t, s) on which a student is trained."""

from typing import Annotated

from meanflow_tune.settings import OneOf
from meanflow_tune.time_samplers.base import SortedPairs as SortedPairs
from meanflow_tune.time_samplers.base import TimeSamplerSettings as TimeSamplerSettings
from meanflow_tune.time_samplers.beta import BetaPairs as BetaPairs
from meanflow_tune.time_samplers.end_first import EndFirst as EndFirst
from meanflow_tune.time_samplers.gap_first import GapFirst as GapFirst
from meanflow_tune.time_samplers.logit_normal import LogitNormalPairs as LogitNormalPairs
from meanflow_tune.time_samplers.mode import ModePairs as ModePairs
from meanflow_tune.time_samplers.uniform import UniformPairs as UniformPairs

TIME_SAMPLER_KINDS = TimeSamplerSettings.members()
TimeSampler = Annotated[TimeSamplerSettings, OneOf(TIME_SAMPLER_KINDS)]
