"""Eight Gaussians on a circle in the plane: a toy whose modes can be seen and counted."""

import math
from typing import Literal

import torch
from pydantic import Field

from meanflow_tune.core.types import DataSplit
from meanflow_tune.data.base import DataSettings, make_split


class EightGaussians(DataSettings):
    """Points [2] around eight centres on a circle of radius √2: a variance of 1 + std² per axis.

    size, held_out: numbers of points; std: of each Gaussian; labelled: the centre is a class.
    """

    kind: Literal["eight_gaussians"] = "eight_gaussians"
    size: int = Field(20_000, ge=8, le=10_000_000)
    held_out: int = Field(2_000, ge=8, le=1_000_000)
    std: float = Field(0.1, gt=0.0, le=1.0)
    labelled: bool = False
    seed: int = Field(0, ge=0, lt=2**63)

    def load(self) -> DataSplit:
        generator = torch.Generator().manual_seed(self.seed)
        total = self.size + self.held_out
        label = torch.randint(8, (total,), generator=generator)
        # Drawn in double precision and rounded: processors then agree on the fingerprint.
        noise = torch.randn(total, 2, generator=generator, dtype=torch.float64)
        angle = label.double() * (math.pi / 4)
        centre = math.sqrt(2.0) * torch.stack((angle.cos(), angle.sin()), dim=1)
        points = (centre + self.std * noise).float()
        if not self.labelled:
            return make_split(points[: self.size], None, points[self.size :], None, classes=None)
        return make_split(
            points[: self.size],
            label[: self.size],
            points[self.size :],
            label[self.size :],
            classes=8,
        )
