"""Data sets, each loaded whole into memory as a DataSplit."""

from typing import Annotated

from meanflow_tune.data.base import DataSettings as DataSettings
from meanflow_tune.data.digits import Digits as Digits
from meanflow_tune.data.eight_gaussians import EightGaussians as EightGaussians
from meanflow_tune.data.errors import DataUnavailable as DataUnavailable
from meanflow_tune.settings import OneOf

DATA_KINDS = DataSettings.members()
Data = Annotated[DataSettings, OneOf(DATA_KINDS)]
