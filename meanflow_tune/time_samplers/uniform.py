"""Uniform times, and sorted pairs of them."""

from typing import Literal

from torch import Tensor

from meanflow_tune.time_samplers.base import Distribution, SingleTime, SortedPairs


class _Uniform(Distribution):
    def quantile(self, q: Tensor) -> Tensor:
        return q

    def cdf(self, x: Tensor) -> Tensor:
        return x.double()


class Uniform(_Uniform, SingleTime):
    """A time uniform in [0, 1]."""

    kind: Literal["uniform"] = "uniform"


class UniformPairs(_Uniform, SortedPairs):
    """The smaller and the larger of two times, uniform in [0, 1]."""

    kind: Literal["uniform"] = "uniform"
