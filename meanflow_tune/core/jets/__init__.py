"""Exact derivatives of a network in one pass: (u, ∂_s u, D u, D ∂_s u), or u and one of them.

D = ∂_t + v·∂_x is the total derivative along the trajectory. The pass goes through an unmodified
module or callable, with or without recording a graph for gradients. It is written out by hand because
torch's nested forward-mode differentiation is silently wrong through layer norm, and because the
components then share one matrix product per layer.

An operator without a rule raises `UnsupportedOperator`; `register_rule` adds one. An operator with
kinks warns once (`NonSmoothWarning`): its second derivative vanishes almost everywhere or jumps.

A jet stands in for a tensor but is not one: isinstance(x, torch.Tensor) is False, so a network must test
x.shape or x.dtype instead. The first pass through a network is therefore compared with a plain
evaluation, and raises RuntimeError where their values differ. Whatever needs a plain tensor or its
numbers (item, numpy, torch.tensor, an index) is refused.

Precision. All components are computed and returned in the type of x. Under `torch.autocast` matrix
products, convolutions and attention's products are computed in the autocast type, all components
alike, and their results continue in float32: norms, softmax, activations, sums and the residual stream
of all four components are float32. Where x and the parameters themselves are bfloat16 or float16, the
storage is too; norms, softmax and functions of one variable are computed in float32 and rounded once.
In either case only the rounding of weights and of operands of products remains.

Operators that cut the graph of gradients in a network (`detach`, `torch.no_grad`) keep the derivatives
along x, t and s: the function is the same. `torch.utils.checkpoint` works with use_reentrant=False.
Inside a custom `torch.autograd.Function`, and so with use_reentrant=True, gradients would be lost; this
is refused.
"""

from meanflow_tune.core.jets.dropout import DropoutMasks, without_dropout
from meanflow_tune.core.jets.engine import Engine, Precision, compiled, engine_of
from meanflow_tune.core.jets.errors import NonSmoothWarning, UnsupportedOperator
from meanflow_tune.core.jets.jet import Jet, chain
from meanflow_tune.core.jets.passes import FirstOrderJet, directional_jet, velocity_jet
from meanflow_tune.core.jets.register import register_rule
from meanflow_tune.core.jets.rules import supported_operators

__all__ = [
    "DropoutMasks",
    "Engine",
    "FirstOrderJet",
    "Jet",
    "NonSmoothWarning",
    "Precision",
    "UnsupportedOperator",
    "chain",
    "compiled",
    "directional_jet",
    "engine_of",
    "register_rule",
    "supported_operators",
    "velocity_jet",
    "without_dropout",
]
