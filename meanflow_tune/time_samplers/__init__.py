"""Distributions of the pairs of times (t, s) on which a student is trained."""

from typing import Annotated

from pydantic import Field

from meanflow_tune.time_samplers.base import SortedPairs, TimeSamplerSettings
from meanflow_tune.time_samplers.beta import BetaPairs
from meanflow_tune.time_samplers.end_first import EndFirst
from meanflow_tune.time_samplers.gap_first import GapFirst
from meanflow_tune.time_samplers.logit_normal import LogitNormalPairs
from meanflow_tune.time_samplers.mode import ModePairs
from meanflow_tune.time_samplers.uniform import UniformPairs

TimeSampler = Annotated[
    UniformPairs | LogitNormalPairs | BetaPairs | ModePairs | GapFirst | EndFirst,
    Field(discriminator="kind"),
]
TIME_SAMPLER_KINDS = (UniformPairs, LogitNormalPairs, BetaPairs, ModePairs, GapFirst, EndFirst)

__all__ = [
    "TIME_SAMPLER_KINDS",
    "BetaPairs",
    "EndFirst",
    "GapFirst",
    "LogitNormalPairs",
    "ModePairs",
    "SortedPairs",
    "TimeSampler",
    "TimeSamplerSettings",
    "UniformPairs",
]
