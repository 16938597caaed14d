"""Identities of the average velocity as training targets, and their mixture."""

from typing import Annotated

from pydantic import Field

from meanflow_tune.losses.backward import Backward
from meanflow_tune.losses.base import Loss, Parts, Ramp, TargetInputs
from meanflow_tune.losses.combine import Combined, combine
from meanflow_tune.losses.derivative import Exact, FiniteDifference, MixedDerivative
from meanflow_tune.losses.flow_matching import FlowMatching
from meanflow_tune.losses.forward import Forward
from meanflow_tune.losses.generalized import Generalized
from meanflow_tune.losses.identity import Coefficients, JetIdentity
from meanflow_tune.losses.mix import LossMix
from meanflow_tune.losses.second_order import SecondOrder
from meanflow_tune.losses.solver import Solver
from meanflow_tune.losses.tri_consistency import TriConsistency

AnyLoss = Annotated[
    Backward | Forward | SecondOrder | Generalized | TriConsistency | FlowMatching,
    Field(discriminator="kind"),
]
LOSS_KINDS = (Backward, Forward, SecondOrder, Generalized, TriConsistency, FlowMatching)

__all__ = [
    "LOSS_KINDS",
    "AnyLoss",
    "Backward",
    "Coefficients",
    "Combined",
    "Exact",
    "FiniteDifference",
    "FlowMatching",
    "Forward",
    "Generalized",
    "JetIdentity",
    "Loss",
    "LossMix",
    "MixedDerivative",
    "Parts",
    "Ramp",
    "SecondOrder",
    "Solver",
    "TargetInputs",
    "TriConsistency",
    "combine",
]
