"""Errors and warnings of the derivative pass, each with what to do instead."""

import sys
import warnings

import torch

_WARNED: set[str] = set()
recording: list[bool] = []  # one entry per running pass that records a graph
NUMBERS = "leave numbers to a callback outside the network, which sees plain tensors"
INTEGERS = "whole numbers have no derivative: give a class by a keyword argument, and use t and s as they are"
_RECURRENT = "write the cell with linear layers, sigmoid and tanh"
# What to do instead of common operators without a rule.
REMEDIES = {
    **dict.fromkeys(("item", "tolist", "numpy", "__array__", "__float__", "__int__"), NUMBERS),
    **dict.fromkeys(("long", "int", "short", "char", "byte", "bool", "embedding"), INTEGERS),
    **dict.fromkeys(("bucketize", "searchsorted", "one_hot", "embedding_bag"), INTEGERS),
    **dict.fromkeys(("gru", "lstm", "rnn_tanh", "rnn_relu", "gru_cell", "lstm_cell"), _RECURRENT),
    **dict.fromkeys(("rnn_tanh_cell", "rnn_relu_cell", "_pack_padded_sequence"), _RECURRENT),
    **dict.fromkeys(
        ("tensor", "as_tensor"),
        "use torch.stack, which keeps the derivatives; a network that calls it where torch.is_tensor(x) or "
        "isinstance(x, torch.Tensor) is False, as they are for a jet, must ask for x.shape instead",
    ),
    "_nested_tensor_from_mask_left_aligned": "make nn.TransformerEncoder with "
    "enable_nested_tensor=False: its nested form gives other values where there is padding",
    "grad": "an inner torch.autograd.grad cannot be followed: give its formula as a module",
    "backward": "differentiate what the jet pass returns",
    "grid_sample": "resample by torch.nn.functional.interpolate, or at positions without derivatives",
}  # fmt: skip


class UnsupportedOperator(NotImplementedError):
    """A network uses an operator, or a form of one, that has no derivative rule."""

    def __str__(self) -> str:
        # Not in __init__, which a compiler cannot trace.
        operator, *remedy = self.args
        otherwise = REMEDIES.get(
            operator.rpartition(".")[2],
            "write the network with operators that have one, or add a rule with "
            "meanflow_tune.core.jets.register_rule(operator)(rule)",
        )
        return f"no derivative rule for {operator}; {remedy[0] if remedy else otherwise}"


class WritesIntoConstant(UnsupportedOperator):
    """Derivatives are written into a tensor that has none."""


class NonSmoothWarning(UserWarning):
    """A network uses an operator whose second derivative vanishes almost everywhere or jumps."""


def warn_of_kink(operator: str, why: str) -> None:
    """Warns once per operator and process that second-order targets through it miss its curvature."""
    if operator in _WARNED or torch.compiler.is_compiling():
        return
    _WARNED.add(operator)
    warnings.warn(
        f"{operator} is not smooth: {why}. A second-order target through it is exact almost everywhere and "
        "still misses its curvature; smooth alternatives are GELU, SiLU, Mish, Softplus and tanh",
        NonSmoothWarning,
        stacklevel=3,
    )


def refuse_hidden_graph() -> None:
    """Raises where a jet is made inside a custom `torch.autograd.Function` of a pass with gradients.

    Its `apply` turns recording off and attaches its own backward to tensors only, so the gradient of
    jets would be lost silently. Checkpointing with use_reentrant=True is such a function. Under the
    user's own `torch.no_grad` nothing is raised: there the graph is meant to be cut.
    """
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code is _APPLY:
            name = frame.f_locals["cls"].__name__
            raise UnsupportedOperator(
                f"gradients through the autograd.Function {name}",
                "call torch.utils.checkpoint with use_reentrant=False"
                if name == "CheckpointFunction"
                else "use the operators of its forward directly, which have rules",
            )
        frame = frame.f_back  # type: ignore[assignment]


_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
