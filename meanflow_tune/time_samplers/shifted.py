"""Times moved towards one end."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from meanflow_tune.time_samplers.base import AnySingleTime, SingleTime
from meanflow_tune.time_samplers.uniform import Uniform


class Shifted(SingleTime):
    """shift_κ(x) = κx / (1 + (κ - 1) x) of a time x from `base`; κ = factor > 1 favours the data, time 1.

    Stable Diffusion 3's shift for the resolution (arXiv 2403.03206, eq. 23). Papers put the noise at
    time 1, so that their κ is 1/κ here: 1 - shift_κ(1 - x) = shift_{1/κ}(x).
    """

    kind: Literal["shifted"] = "shifted"
    base: AnySingleTime = Uniform()
    factor: float = Field(1.0 / 3.0, ge=1e-3, le=1e3)

    def quantile(self, q: Tensor) -> Tensor:
        return shift(self.base.quantile(q), self.factor)

    def cdf(self, x: Tensor) -> Tensor:
        return self.base.cdf(shift(x.double(), 1.0 / self.factor))

    def atoms(self) -> tuple[Tensor, Tensor] | None:
        atoms = self.base.atoms()
        return None if atoms is None else (shift(atoms[0], self.factor), atoms[1])


def shift(x: Tensor, factor: float) -> Tensor:
    """κx / (1 + (κ - 1) x) for x in [0, 1], exactly 0 and 1 at the ends; its inverse has 1/κ."""
    raised = factor * x
    return raised / (raised + (1.0 - x))
