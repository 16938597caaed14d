"""Identities of the average velocity as training targets, and their mixture.

The members are the fields of `LossMix`, in mix.py.
"""

from meanflow_tune.losses.backward import Backward as Backward
from meanflow_tune.losses.base import Loss as Loss
from meanflow_tune.losses.base import Ramp as Ramp
from meanflow_tune.losses.base import TargetInputs as TargetInputs
from meanflow_tune.losses.base import TargetParts as TargetParts
from meanflow_tune.losses.combine import Combined as Combined
from meanflow_tune.losses.combine import combine as combine
from meanflow_tune.losses.derivative import Exact as Exact
from meanflow_tune.losses.derivative import FiniteDifference as FiniteDifference
from meanflow_tune.losses.derivative import MixedDerivative as MixedDerivative
from meanflow_tune.losses.flow_matching import FlowMatching as FlowMatching
from meanflow_tune.losses.forward import Forward as Forward
from meanflow_tune.losses.generalized import Generalized as Generalized
from meanflow_tune.losses.identity import Coefficients as Coefficients
from meanflow_tune.losses.identity import JetIdentity as JetIdentity
from meanflow_tune.losses.mix import LOSSES as LOSSES
from meanflow_tune.losses.mix import LossMix as LossMix
from meanflow_tune.losses.second_order import SecondOrder as SecondOrder
from meanflow_tune.losses.solver import Solver as Solver
from meanflow_tune.losses.tri_consistency import TriConsistency as TriConsistency
