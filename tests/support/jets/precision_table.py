"""Prints the error of every component by precision, as Markdown: python -m tests.support.jets.precision_table

Against the same pass in float64 (whose own error is in the first lines, against central differences).
Relative: the largest error of a component over its largest value.
"""

import copy
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn

from meanflow_tune.core.jets import velocity_jet
from meanflow_tune.models.dit import DiT
from meanflow_tune.models.mlp import MLP
from tests.support.jets.networks import NETWORKS, batch, central_differences, make, relative_error

COMPONENTS = ("u", "d_s", "d_t", "d_t_d_s")


def shipped(settings: DiT | MLP) -> nn.Module:
    network = settings.build((1, 8, 8), 5, torch.Generator().manual_seed(0))
    network.shape = (1, 8, 8)  # type: ignore[assignment]
    return network


BUILD: dict[str, Callable[[], nn.Module]] = {
    "shipped dit": lambda: shipped(DiT()),
    "shipped mlp": lambda: shipped(MLP()),
    **{name: lambda name=name: make(name, torch.float32) for name in NETWORKS},  # type: ignore[misc]
}
OVERFLOWS = {("u-net", "float16")}  # with these weights the plain forward is infinite too


# Autocast type (None for none), type of parameters and inputs.
PRECISIONS = {
    "float32": (None, torch.float32),
    "autocast bfloat16": (torch.bfloat16, torch.float32),
    "autocast float16": (torch.float16, torch.float32),
    "bfloat16": (None, torch.bfloat16),
    "float16": (None, torch.float16),
}


def errors(name: str, precision: str, grad: bool) -> list[float]:
    low, dtype = PRECISIONS[precision]
    network: nn.Module = BUILD[name]().to(dtype)
    x, t, s, v, label = batch(network.shape, dtype)  # type: ignore[arg-type]
    with torch.no_grad():
        exact = copy.deepcopy(network).double()
        truth = velocity_jet(exact, *(a.double() for a in (x, t, s, v)), label=label)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", low or dtype, enabled=low is not None):
        found = velocity_jet(network, x, t, s, v, label=label)
    return [relative_error(getattr(found, c).double(), getattr(truth, c)) for c in COMPONENTS]


def errors_of_float64(name: str, grad: bool) -> list[float]:
    network = BUILD[name]().double()
    x, t, s, v, label = batch(network.shape)  # type: ignore[arg-type]
    with torch.set_grad_enabled(grad):
        found = velocity_jet(network, x, t, s, v, label=label)
    truth = central_differences(network, x, t, s, v, label=label)
    return [relative_error(getattr(found, c), getattr(truth, c)) for c in COMPONENTS]


def rows() -> Iterator[tuple[str, str, list[float]]]:
    for precision in ("float64", *PRECISIONS):
        worst = [0.0] * 4
        for name in BUILD:
            if any((name, low) in OVERFLOWS for low in precision.split()):
                continue
            both = [
                errors_of_float64(name, grad)
                if precision == "float64"
                else errors(name, precision, grad)
                for grad in (False, True)
            ]
            found = [max(pair) for pair in zip(*both, strict=True)]
            worst = [max(pair) for pair in zip(worst, found, strict=True)]
            if name.startswith("shipped"):
                yield precision, name, found
        yield precision, f"worst of {len(BUILD)} networks", worst


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(
        "| precision | network | u | ∂_s u | D u | D ∂_s u |\n| --- | --- | --- | --- | --- | --- |"
    )
    for precision, name, found in rows():
        print(f"| {precision} | {name} | {' | '.join(f'{e:.1e}' for e in found)} |")
