"""Weightings: the contract of the family, and the minimum or limits of each member."""

import math
from itertools import pairwise

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from meanflow_tune.core.random import make_generator
from meanflow_tune.core.residuals import (
    bound_factor,
    limited,
    mean_cosine,
    per_sample_mean_square,
)
from meanflow_tune.weightings import (
    WEIGHTING_KINDS,
    Adaptive,
    AnyWeighting,
    LogVariance,
    PseudoHuber,
    WeightingModule,
    WeightingSettings,
)
from tests.support.other_values import others


def build(kind: type[WeightingSettings], seed: int = 0) -> WeightingModule:
    return kind().build(make_generator(seed, "weighting"))


def values(module: WeightingModule, residual: Tensor) -> Tensor:
    times = torch.linspace(0.0, 0.5, len(residual))
    out: Tensor = module(residual, per_sample_mean_square(residual), times, times + 0.4)
    return out


@pytest.mark.parametrize("kind", WEIGHTING_KINDS)
def test_one_finite_number_a_sample_of_the_residuals_type(kind: type[WeightingSettings]) -> None:
    for dtype in (torch.float32, torch.float64):
        for shape in ((7, 3), (7, 1, 4, 4)):
            residual = torch.randn(shape, dtype=dtype, requires_grad=True)
            out = values(build(kind), residual)
            assert out.shape == (7,)
            assert out.dtype == dtype
            out.sum().backward()
            assert residual.grad is not None
            assert torch.isfinite(residual.grad).all()
            # Descent shrinks every residual: the gradient points its way in each dimension.
            assert (residual.grad * residual >= 0).all()


@pytest.mark.parametrize("kind", WEIGHTING_KINDS)
def test_larger_residuals_cost_more_and_none_costs_least(kind: type[WeightingSettings]) -> None:
    module, residual = build(kind), torch.randn(5, 3)
    losses = [values(module, scale * residual) for scale in (0.0, 0.1, 1.0, 10.0)]
    for smaller, larger in pairwise(losses):
        assert (smaller < larger).all()
    zero = torch.zeros(5, 3, requires_grad=True)
    values(module, zero).sum().backward()
    assert torch.equal(zero.grad, torch.zeros(5, 3))


@pytest.mark.parametrize("kind", WEIGHTING_KINDS)
def test_a_sample_does_not_depend_on_the_others(kind: type[WeightingSettings]) -> None:
    module, residual = build(kind), torch.randn(6, 3)
    mean_square, t = per_sample_mean_square(residual), torch.linspace(0.0, 0.5, 6)
    whole = module(residual, mean_square, t, t + 0.3)
    for i in range(6):
        one = slice(i, i + 1)
        alone = module(residual[one], mean_square[one], t[one], t[one] + 0.3)
        torch.testing.assert_close(alone, whole[one])


@pytest.mark.parametrize("kind", WEIGHTING_KINDS)
def test_initial_numbers_come_from_the_generator_only(kind: type[WeightingSettings]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, other = build(kind), build(kind), build(kind, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    mine, same, different = (m.state_dict() for m in (first, second, other))
    assert all(torch.equal(mine[name], same[name]) for name in mine)
    assert not mine or any(not torch.equal(mine[name], different[name]) for name in mine)


@pytest.mark.parametrize("kind", WEIGHTING_KINDS)
def test_settings_are_data(kind: type[WeightingSettings]) -> None:
    adapter: TypeAdapter[WeightingSettings] = TypeAdapter(AnyWeighting)
    settings = kind()
    assert adapter.validate_python(settings.model_dump(mode="json")) == settings
    with pytest.raises(ValidationError, match="Extra inputs"):
        adapter.validate_python({"kind": settings.kind, "unknown": 1.0})


@pytest.mark.parametrize("kind", WEIGHTING_KINDS)
def test_every_setting_changes_the_module(kind: type[WeightingSettings]) -> None:
    residual = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))

    def seen(settings: WeightingSettings) -> list[Tensor]:
        module = settings.build(make_generator(0, "weighting"))
        return [values(module, residual).detach(), *module.state_dict().values()]

    for name, other in others(kind()):
        assert not all(map(torch.equal, seen(other), seen(kind()))), name


def test_kinds_are_distinct() -> None:
    assert len({kind().kind for kind in WEIGHTING_KINDS}) == len(WEIGHTING_KINDS)


def test_adaptive_is_the_power_of_the_error() -> None:
    residual = torch.tensor([[3.0, 1.0], [0.1, 0.3]], dtype=torch.float64)
    found = values(build_adaptive(0.75, 1e-2), residual)
    square = residual.square().mean(dim=1)
    torch.testing.assert_close(found, square / (square + 1e-2) ** 0.75)
    torch.testing.assert_close(values(build_adaptive(0.0, 1e-2), residual), square)


def build_adaptive(power: float, epsilon: float) -> WeightingModule:
    return Adaptive(power=power, epsilon=epsilon).build(make_generator(0))


def test_pseudo_huber_is_a_square_when_small_and_absolute_when_large() -> None:
    module = PseudoHuber(scale=0.1).build(make_generator(0))
    small = torch.full((1, 4), 1e-4, dtype=torch.float64)
    large = torch.full((1, 4), 1e4, dtype=torch.float64)
    assert values(module, small).item() == pytest.approx(1e-8 / 0.2, rel=1e-5)
    assert values(module, large).item() == pytest.approx(1e4 - 0.1, rel=1e-9)
    tiny = torch.full((1, 4), 1e-6)
    assert values(module, tiny).item() == pytest.approx(1e-12 / 0.2, rel=1e-5), "no cancellation"


def test_pseudo_huber_of_a_whole_sample_would_be_the_adaptive_weight() -> None:
    """Why it acts on each dimension: on the norm it has the direction of power 1/2, epsilon c²."""
    residual = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    (of_norm,) = torch.autograd.grad(
        (per_sample_mean_square(residual) + 0.1**2).sqrt().sum(), residual
    )
    (adaptive,) = torch.autograd.grad(values(build_adaptive(0.5, 0.1**2), residual).sum(), residual)
    torch.testing.assert_close(adaptive, 2.0 * of_norm)
    huber = PseudoHuber(scale=0.1).build(make_generator(0))
    (own,) = torch.autograd.grad(values(huber, residual).sum(), residual)
    assert torch.cosine_similarity(own.flatten(), adaptive.flatten(), dim=0) < 0.99


def test_log_variance_learns_the_logarithm_of_the_mean_square() -> None:
    """r² = e^(1 - 3t) e^(2s) has the log-variance 1 - 3t + 2s, which a small network can hold."""
    module = LogVariance(width=16).build(make_generator(0, "weighting"))
    t, gap = torch.rand(2, 512, generator=torch.Generator().manual_seed(1))
    s = t + gap * (1.0 - t)
    truth = 1.0 - 3.0 * t + 2.0 * s
    residual = (0.5 * truth).exp().unsqueeze(1)
    mean_square = per_sample_mean_square(residual)
    at_start = module(residual, mean_square, t, s)
    torch.testing.assert_close(at_start, mean_square, msg="w is 0 at the start")
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-2)
    for _ in range(400):
        optimizer.zero_grad()
        loss = module(residual, mean_square, t, s).mean()
        loss.backward()
        optimizer.step()
    found = module.log_variance(t, s)
    assert (found - truth).abs().mean() < 0.1
    assert loss.item() == pytest.approx(1.0 + float(truth.mean()), abs=0.02), "its least value"


def test_a_bound_keeps_direction_and_small_ones() -> None:
    correction = torch.tensor([[3.0, 4.0], [0.3, -0.4], [0.0, 0.0]], dtype=torch.float64)
    bounded = limited(correction, 2.0)
    size = per_sample_mean_square(bounded).sqrt()
    assert size.tolist() == pytest.approx([2.0, math.sqrt(0.125), 0.0])
    assert torch.equal(bounded[1:], correction[1:])
    assert bounded[0, 1] / bounded[0, 0] == pytest.approx(4.0 / 3.0)
    assert bound_factor(correction.float().requires_grad_(), 2.0).requires_grad is False


def test_mean_cosine() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    b = torch.tensor([[-2.0, 0.0], [3.0, 0.0], [1.0, 0.0]])
    assert mean_cosine(a, b).item() == pytest.approx((-1.0 + math.sqrt(0.5) + 0.0) / 3.0)
