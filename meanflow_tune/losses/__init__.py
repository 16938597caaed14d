"""Identities of the average velocity as training targets, and their mixture."""

from typing import Annotated

from pydantic import Field

from meanflow_tune.losses.backward import Backward
from meanflow_tune.losses.base import Ingredients, Loss, Ramp
from meanflow_tune.losses.flow_matching import FlowMatching
from meanflow_tune.losses.forward import Forward
from meanflow_tune.losses.mix import LossMix
from meanflow_tune.losses.second_order import SecondOrder
from meanflow_tune.losses.solver import Solver
from meanflow_tune.losses.tri_consistency import TriConsistency

AnyLoss = Annotated[
    Backward | Forward | SecondOrder | TriConsistency | FlowMatching, Field(discriminator="kind")
]
LOSS_KINDS = (Backward, Forward, SecondOrder, TriConsistency, FlowMatching)

__all__ = [
    "LOSS_KINDS",
    "AnyLoss",
    "Backward",
    "FlowMatching",
    "Forward",
    "Ingredients",
    "Loss",
    "LossMix",
    "Ramp",
    "SecondOrder",
    "Solver",
    "TriConsistency",
]
