"""Schedules of ρ = ds / (s - t), the difference step of the discrete losses."""

from typing import Annotated

from meanflow_tune.ds_schedules.base import DsScheduleSettings as DsScheduleSettings
from meanflow_tune.ds_schedules.constant import Constant as Constant
from meanflow_tune.ds_schedules.cosine import Cosine as Cosine
from meanflow_tune.ds_schedules.doubling import Doubling as Doubling
from meanflow_tune.ds_schedules.exponential import Exponential as Exponential
from meanflow_tune.ds_schedules.gap_power import GapPower as GapPower
from meanflow_tune.ds_schedules.linear_schedule import Linear as Linear
from meanflow_tune.ds_schedules.sigmoid import Sigmoid as Sigmoid
from meanflow_tune.settings import OneOf

DS_SCHEDULE_KINDS = DsScheduleSettings.members()
DsSchedule = Annotated[DsScheduleSettings, OneOf(DS_SCHEDULE_KINDS)]
