"""Networks for the average velocity u(x_t, t, s, label); the diagonal s = t is the velocity v."""

from typing import Annotated

from pydantic import Field

from meanflow_tune.models.base import NetworkSettings
from meanflow_tune.models.dit import DiT
from meanflow_tune.models.mlp import MLP
from meanflow_tune.models.unet import UNet

Model = Annotated[MLP | DiT | UNet, Field(discriminator="kind")]
MODEL_KINDS = (MLP, DiT, UNet)

__all__ = ["MLP", "MODEL_KINDS", "DiT", "Model", "NetworkSettings", "UNet"]
