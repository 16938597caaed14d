"""Distributions of the pairs of times (t, s) on which a student is trained."""

from typing import Annotated

from meanflow_tune.settings import OneOf
from meanflow_tune.time_samplers.base import DRAWS as DRAWS
from meanflow_tune.time_samplers.base import AnySingleTime as AnySingleTime
from meanflow_tune.time_samplers.base import SingleTime as SingleTime
from meanflow_tune.time_samplers.base import SortedPairs as SortedPairs
from meanflow_tune.time_samplers.base import TimeSamplerSettings as TimeSamplerSettings
from meanflow_tune.time_samplers.beta import Beta as Beta
from meanflow_tune.time_samplers.beta import BetaPairs as BetaPairs
from meanflow_tune.time_samplers.cosmap import CosMap as CosMap
from meanflow_tune.time_samplers.cosmap import CosMapPairs as CosMapPairs
from meanflow_tune.time_samplers.end_first import EndFirst as EndFirst
from meanflow_tune.time_samplers.gap_first import GapFirst as GapFirst
from meanflow_tune.time_samplers.grid import Grid as Grid
from meanflow_tune.time_samplers.logit_normal import LogitNormal as LogitNormal
from meanflow_tune.time_samplers.logit_normal import LogitNormalPairs as LogitNormalPairs
from meanflow_tune.time_samplers.mode import Mode as Mode
from meanflow_tune.time_samplers.mode import ModePairs as ModePairs
from meanflow_tune.time_samplers.nested import Nested as Nested
from meanflow_tune.time_samplers.product import Product as Product
from meanflow_tune.time_samplers.separate import SeparatePairs as SeparatePairs
from meanflow_tune.time_samplers.shifted import Shifted as Shifted
from meanflow_tune.time_samplers.u_shaped import UShaped as UShaped
from meanflow_tune.time_samplers.u_shaped import UShapedPairs as UShapedPairs
from meanflow_tune.time_samplers.uniform import Uniform as Uniform
from meanflow_tune.time_samplers.uniform import UniformPairs as UniformPairs

SINGLE_TIME_KINDS = SingleTime.members()
TIME_SAMPLER_KINDS = TimeSamplerSettings.members()
TimeSampler = Annotated[TimeSamplerSettings, OneOf(TIME_SAMPLER_KINDS)]
