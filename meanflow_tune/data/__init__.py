"""Data sets, each loaded whole into memory as a DataSplit."""

from typing import Annotated

from pydantic import Field

from meanflow_tune.data.base import DataSettings
from meanflow_tune.data.digits import Digits
from meanflow_tune.data.eight_gaussians import EightGaussians
from meanflow_tune.data.errors import DataUnavailable

Data = Annotated[Digits | EightGaussians, Field(discriminator="kind")]
DATA_KINDS = (Digits, EightGaussians)

__all__ = ["DATA_KINDS", "Data", "DataSettings", "DataUnavailable", "Digits", "EightGaussians"]
