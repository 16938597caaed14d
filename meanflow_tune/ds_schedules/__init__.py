"""Schedules of ρ = ds / (s - t), the difference step of the discrete losses."""

from typing import Annotated

from pydantic import Field

from meanflow_tune.ds_schedules.base import DsScheduleSettings
from meanflow_tune.ds_schedules.constant import Constant
from meanflow_tune.ds_schedules.cosine import Cosine
from meanflow_tune.ds_schedules.doubling import Doubling
from meanflow_tune.ds_schedules.exponential import Exponential
from meanflow_tune.ds_schedules.gap_power import GapPower
from meanflow_tune.ds_schedules.sigmoid import Sigmoid

DsSchedule = Annotated[
    Constant | Exponential | Cosine | Sigmoid | Doubling | GapPower, Field(discriminator="kind")
]
DS_SCHEDULE_KINDS = (Constant, Exponential, Cosine, Sigmoid, Doubling, GapPower)

__all__ = [
    "DS_SCHEDULE_KINDS",
    "Constant",
    "Cosine",
    "Doubling",
    "DsSchedule",
    "DsScheduleSettings",
    "Exponential",
    "GapPower",
    "Sigmoid",
]
