"""Activations of torch.nn: which warn of kinks, and that the smooth ones do not."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from meanflow_tune.core.jets import Jet, NonSmoothWarning, errors, velocity_jet
from tests.support.jets.networks import batch, relative_error

KINKED: dict[str, Callable[[Any], Any]] = {
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "leaky_relu": nn.LeakyReLU(),
    "prelu": nn.PReLU(),
    "rrelu": nn.RReLU().eval(),
    "elu": nn.ELU(),
    "celu": nn.CELU(),
    "selu": nn.SELU(),
    "hardtanh": nn.Hardtanh(),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardshrink": nn.Hardshrink(),
    "softshrink": nn.Softshrink(),
    "softsign": nn.Softsign(),
    "threshold": nn.Threshold(0.1, 0.0),
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(min=0.0),
    "minimum": lambda x: torch.minimum(x, 2 * x),
    "maximum": lambda x: torch.maximum(x, 2 * x),
    "amax": lambda x: x.amax(0),
    "max": lambda x: x.max(0).values,
    "sort": lambda x: x.sort(0)[0],
    "topk": lambda x: x.topk(1, 0).values,
    "max_pool1d": nn.MaxPool1d(2),
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d(1),
    "floor": torch.floor,
}  # fmt: skip
# What these modules call.
NAMES = {"rrelu": "leaky_relu", "relu6": "hardtanh"}


@pytest.mark.parametrize("name", KINKED)
def test_an_operator_with_kinks_warns_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_WARNED", set())
    jet = Jet(torch.randn(4, 2, 4, 4))

    def thrice() -> None:
        for _ in range(3):
            KINKED[name](jet)

    with pytest.warns(NonSmoothWarning, match=rf"{NAMES.get(name, name)} .*GELU.*tanh") as caught:
        thrice()
    assert len(caught) == 1


SMOOTH = (
    *(nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Softplus(), nn.Sigmoid(), nn.Tanh()),
    *(nn.LogSigmoid(), nn.Tanhshrink(), nn.Softmax(-1), nn.Softmin(-1), nn.LogSoftmax(-1)),
    *(nn.Softmax2d(), nn.GLU(1)),
)


@pytest.mark.parametrize("module", SMOOTH, ids=repr)
def test_smooth_activations_do_not_warn(
    module: nn.Module, recwarn: pytest.WarningsRecorder
) -> None:
    jet = Jet(torch.randn(4, 2, 2, 4, 4, dtype=torch.float64))
    x, a = jet.parts[:2]
    found = module(jet).parts[1]
    ahead, behind = module(x + 1e-5 * a), module(x - 1e-5 * a)
    torch.testing.assert_close(found, (ahead - behind) / 2e-5, rtol=1e-8, atol=1e-8)
    assert not [w for w in recwarn if issubclass(w.category, NonSmoothWarning)]


def test_every_activation_module_of_torch_is_covered() -> None:
    covered = {type(m).__name__ for m in (*SMOOTH, *KINKED.values()) if isinstance(m, nn.Module)}
    listed = set(torch.nn.modules.activation.__all__) - {"MultiheadAttention"}
    assert listed <= covered


def test_dead_curvature_is_exact_almost_everywhere() -> None:
    """Between the kinks of |x| and max(x, 0)² the mixed derivatives are those of x, -x and x²."""
    x, t, s, v, _ = batch((3,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonSmoothWarning)
        found = velocity_jet(
            lambda x, t, s: x.relu() ** 2 * s[:, None] + x.abs() * s[:, None], x, t, s, v
        )
    assert relative_error(found.d_t_d_s, 2 * x.relu() * v + x.sign() * v) < 1e-12
