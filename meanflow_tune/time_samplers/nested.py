"""Pairs whose end is uniform after the start."""

from typing import Literal

from meanflow_tune.time_samplers.base import SingleTime
from meanflow_tune.time_samplers.product import FactorPairs
from meanflow_tune.time_samplers.uniform import Uniform


class Nested(FactorPairs):
    """The start t from `start`, then the end s uniform in [t, 1]."""

    kind: Literal["nested"] = "nested"

    @property
    def _factor(self) -> SingleTime:
        return Uniform()
