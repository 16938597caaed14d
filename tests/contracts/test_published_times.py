"""Time samplers against the published codes, and distribution functions against quadrature."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from meanflow_tune.core.random import make_generator
from meanflow_tune.time_samplers import (
    Beta,
    CosMap,
    Grid,
    LogitNormal,
    LogitNormalPairs,
    Nested,
    Product,
    SeparatePairs,
    SingleTime,
    TimeSamplerSettings,
    Uniform,
    UniformPairs,
    UShaped,
)
from meanflow_tune.time_samplers.beta import uniform_below_cdf
from tests.support.times.papers import sigmoid
from tests.support.times.statistics import SIGNIFICANT, Array, two_sample_distance

N = 20_000
CIFAR = LogitNormal(mean=2.0, std=2.0)


def logit_normal(mean: float, std: float, rng: np.random.Generator) -> Array:
    return sigmoid(rng.standard_normal(N) * std + mean)


def v0(mean: float, std: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """py-meanflow's sampler of the paper, r <= t with noise at 1; a quarter has r = t."""
    t, r = logit_normal(mean, std, rng), logit_normal(mean, std, rng)
    t, r = np.maximum(t, r), np.minimum(t, r)
    return t, np.where(rng.random(N) < 1.0 - 0.75, t, r)


def v1(mean: float, std: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Its second sampler, where r has a mean of -4 and is cut at t."""
    t, r = logit_normal(mean, std, rng), logit_normal(-4.0, std, rng)
    r = np.where(rng.random(N) < 1.0 - 0.75, t, r)
    return t, np.minimum(t, r)


@pytest.mark.parametrize(
    "sampler, code, mean, std",
    [
        (LogitNormalPairs(mean=2.0, std=2.0), v0, -2.0, 2.0),
        (SeparatePairs(start=CIFAR, end=CIFAR, pairing="sorted"), v0, -2.0, 2.0),
        (LogitNormalPairs(mean=0.4, std=1.0), v0, -0.4, 1.0),
        (SeparatePairs(), v1, -0.6, 1.6),
    ],
)
def test_published_pairings(
    sampler: TimeSamplerSettings, code: object, mean: float, std: float
) -> None:
    assert callable(code)
    times = sampler.sample(N, make_generator(11))
    t, r = code(mean, std, np.random.default_rng(11))
    ours = (times.t, times.s, times.s.double() - times.t.double())
    for own, theirs in zip(ours, (1.0 - t, 1.0 - r, t - r), strict=True):
        pair = (own.double().numpy().round(6), theirs.round(6))
        assert two_sample_distance(*pair) < SIGNIFICANT


def test_the_cut_puts_more_rows_on_the_diagonal() -> None:
    times = SeparatePairs(diagonal_share=0.25).sample(N, make_generator(12))
    # P(second <= first) for normals with means 0.6 and 4, both of standard deviation 1.6.
    cut = stats.norm.cdf((0.6 - 4.0) / (1.6 * 2.0**0.5))
    expected = 0.25 + 0.75 * cut
    assert float((times.t == times.s).double().mean()) == pytest.approx(expected, abs=0.006)


def test_nested_is_the_product_with_a_uniform_factor() -> None:
    start = LogitNormal(mean=1.0)
    nested = Nested(start=start).sample(64, make_generator(0))
    product = Product(start=start, factor=Uniform()).sample(64, make_generator(0))
    assert torch.equal(nested.t, product.t)
    assert torch.equal(nested.s, product.s)
    # Uniform start: P(s <= x) = x + (1 - x) log(1 - x).
    x = torch.linspace(0.0, 0.99, 100, dtype=torch.float64)
    expected = x + (1.0 - x) * torch.log1p(-x)
    torch.testing.assert_close(Nested().marginal_cdf("s", x), expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(
    "start, factor",
    [
        (Uniform(), Uniform()),
        (LogitNormal(mean=4.0, std=1.6), Beta(a=0.5, b=0.5)),
        (LogitNormal(mean=-2.0, std=0.3), CosMap()),
        (Beta(a=0.4, b=0.3), Beta(a=0.3, b=2.0)),
        (Beta(a=30.0, b=80.0), LogitNormal(mean=-2.0)),
        (CosMap(), UShaped(a=12.0)),
        (CosMap(), Grid(intervals=3)),
        (Grid(base=CosMap(), intervals=4), UShaped()),
    ],
    ids=repr,
)
def test_the_end_of_a_product_by_quadrature(start: SingleTime, factor: SingleTime) -> None:
    """P(1 - (1 - T) Q <= x) as an integral over the uniform draw of the start, adaptively."""

    def of(function: object, value: float) -> float:
        assert callable(function)
        return float(function(torch.tensor(value, dtype=torch.float64)))

    for x in (0.03, 0.2, 0.55, 0.83, 0.99):

        def above(v: float, y: float = 1.0 - x) -> float:
            rest = 1.0 - of(start.quantile, v)
            return 0.0 if rest < y else 1.0 - of(factor.cdf, min(y / rest, 1.0))

        breaks = [of(start.cdf, 1.0 - (1.0 - x) / q) for q in (1.0 / 3.0, 2.0 / 3.0) if q > 1.0 - x]
        if start.atoms() is not None:
            breaks += start.atoms()[1].cumsum(0).tolist()
        ends = [0.0, *sorted({b for b in breaks if 0.0 < b < of(start.cdf, x)}), of(start.cdf, x)]
        expected = sum(
            integrate.quad(above, a, b, epsabs=1e-9, limit=200)[0] for a, b in pairwise(ends)
        )
        ours = of(lambda at: Product(start=start, factor=factor).marginal_cdf("s", at), x)
        assert ours == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("a, b", [(0.4, 0.7), (1.0, 1.0), (3.0, 0.8), (8.0, 5.0)])
def test_uniform_part_of_a_beta_length(a: float, b: float) -> None:
    distribution = stats.beta(a, b)
    for x in (1e-4, 0.05, 0.4, 0.97):
        beyond = integrate.quad(
            lambda v, x=x: x / distribution.isf(v), 0.0, distribution.sf(x), limit=200
        )[0]
        ours = uniform_below_cdf(a, b, torch.tensor([x], dtype=torch.float64)).item()
        assert ours == pytest.approx(distribution.cdf(x) + beyond, abs=2e-5)


def test_pairs_in_any_order_are_uniform_over_the_triangle() -> None:
    times = UniformPairs(diagonal_share=0.0).sample(N, make_generator(13))
    # The area of {s - t <= g} in the triangle is 1 - (1 - g)².
    gap = (times.s - times.t).double().sort().values.numpy()
    expected = 1.0 - (1.0 - gap) ** 2
    assert np.abs(np.arange(N) / N - expected).max() * N**0.5 < SIGNIFICANT
