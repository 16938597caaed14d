"""Networks for the average velocity u(x_t, t, s, label); on the diagonal s = t it is the velocity v."""

from typing import Annotated

from meanflow_tune.models.base import NetworkSettings as NetworkSettings
from meanflow_tune.models.dit import DiT as DiT
from meanflow_tune.models.mlp import MLP as MLP
from meanflow_tune.models.unet import UNet as UNet
from meanflow_tune.settings import OneOf

MODEL_KINDS = NetworkSettings.members()
Model = Annotated[NetworkSettings, OneOf(MODEL_KINDS)]
