"""Time samplers: their distributions by Kolmogorov-Smirnov tests, and the contract of the family."""

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy import integrate, stats
from torch import Generator, Tensor

from meanflow_tune.core.random import make_generator
from meanflow_tune.time_samplers import (
    TIME_SAMPLER_KINDS,
    BetaPairs,
    EndFirst,
    GapFirst,
    LogitNormalPairs,
    ModePairs,
    SortedPairs,
    TimeSampler,
    TimeSamplerSettings,
    UniformPairs,
)
from meanflow_tune.time_samplers.base import uniform_below_cdf
from tests.support.other_values import others

MORE = (
    LogitNormalPairs(mean=-1.5, std=0.6),
    BetaPairs(a=0.5, b=3.0),
    ModePairs(scale=-0.8),
    GapFirst(a=0.6, b=0.7),
    GapFirst(a=4.0, b=2.0),
    EndFirst(a=0.6, b=2.0),
    EndFirst(a=5.0, b=1.0),
)
SAMPLERS = (*(kind() for kind in TIME_SAMPLER_KINDS), *MORE)
GRID = torch.linspace(0.0, 1.0, 201, dtype=torch.float64)
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)


def draw(
    sampler: TimeSamplerSettings, n: int, share: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    times = sampler.model_copy(update={"diagonal_share": share}).sample(n, make_generator(seed))
    return times.t, times.s


def distance(draws: Tensor, cdf: Tensor) -> float:
    """Kolmogorov-Smirnov statistic · √n, above 1.95 once in 1000; cdf: [n], at the draws."""
    values = cdf[draws.argsort()]
    n = len(draws)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    gap = torch.maximum((steps[1:] - values).max(), (values - steps[:-1]).max())
    return float(gap) * math.sqrt(n)


@each_sampler
@pytest.mark.parametrize("which", ["t", "s"])
def test_marginals(sampler: TimeSamplerSettings, which: str) -> None:
    t, s = draw(sampler, 20_000, share=0.0)
    x = (t if which == "t" else s).double()
    assert distance(x, sampler.marginal_cdf(which, x)) < 1.95


@each_sampler
def test_diagonal_times_are_either_end_with_equal_chances(sampler: TimeSamplerSettings) -> None:
    t, s = draw(sampler, 20_000, share=1.0, seed=1)
    assert torch.equal(t, s)
    x = t.double()
    distribution = 0.5 * (sampler.marginal_cdf("t", x) + sampler.marginal_cdf("s", x))
    assert distance(x, distribution) < 1.95


@each_sampler
def test_distribution_functions(sampler: TimeSamplerSettings) -> None:
    start, end = sampler.marginal_cdf("t", GRID), sampler.marginal_cdf("s", GRID)
    for distribution in (start, end):
        assert distribution.dtype == torch.float64
        assert distribution[0].item() == pytest.approx(0.0, abs=1e-12)
        assert distribution[-1].item() == pytest.approx(1.0, abs=1e-12)
        assert (distribution.diff() >= -1e-12).all()
    assert (start >= end - 1e-12).all()  # t <= s
    assert sampler.marginal_cdf("t", GRID.reshape(3, 67)).shape == (3, 67)


@each_sampler
def test_pairs_are_ordered_and_inside_the_interval(sampler: TimeSamplerSettings) -> None:
    t, s = draw(sampler, 5_000, share=0.25)
    assert t.dtype == s.dtype == torch.float32
    assert (t >= 0.0).all()
    assert (t <= s).all()
    assert (s <= 1.0).all()


@each_sampler
@pytest.mark.parametrize(
    "n, share, expected", [(128, 0.25, 32), (10, 0.25, 3), (7, 0.5, 4), (9, 0.0, 0), (1, 1.0, 1)]
)
def test_diagonal_share_is_exact(
    sampler: TimeSamplerSettings, n: int, share: float, expected: int
) -> None:
    t, s = draw(sampler, n, share, seed=3)
    assert t.shape == s.shape == (n,)
    assert int((t == s).sum()) == expected


def test_diagonal_rows_stand_anywhere() -> None:
    generator = make_generator(4)
    hits = torch.zeros(8)
    for _ in range(400):
        times = UniformPairs(diagonal_share=0.25).sample(8, generator)
        hits += times.gap == 0
    # Each row is hit 100 times on average, with a standard deviation of 8.7.
    assert hits.min() > 65
    assert hits.max() < 135


@each_sampler
def test_draws_come_from_the_generator_only(sampler: TimeSamplerSettings) -> None:
    before = torch.get_rng_state()
    first, again = sampler.sample(64, make_generator(9)), sampler.sample(64, make_generator(9))
    other = sampler.sample(64, make_generator(10))
    assert torch.equal(first.t, again.t)
    assert torch.equal(first.s, again.s)
    assert not torch.equal(first.t, other.t)
    assert torch.equal(before, torch.get_rng_state())


@each_sampler
def test_settings_are_data(sampler: TimeSamplerSettings) -> None:
    adapter: TypeAdapter[TimeSamplerSettings] = TypeAdapter(TimeSampler)
    assert adapter.validate_python(sampler.model_dump(mode="json")) == sampler
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(sampler)(ratio=0.5)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValidationError):
            type(sampler)(diagonal_share=share)


@pytest.mark.parametrize("kind", TIME_SAMPLER_KINDS)
def test_every_setting_changes_the_draws(kind: type[TimeSamplerSettings]) -> None:
    base = kind().sample(64, make_generator(2))
    for name, changed in others(kind()):
        assert not torch.equal(changed.sample(64, make_generator(2)).t, base.t), name


def test_kinds_are_distinct() -> None:
    kinds = [kind().kind for kind in TIME_SAMPLER_KINDS]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if isinstance(s, SortedPairs)], ids=repr)
def test_distribution_function_inverts_the_quantile(sampler: SortedPairs) -> None:
    q = GRID[1:-1]
    torch.testing.assert_close(sampler.cdf(sampler.quantile(q)), q, rtol=0.0, atol=1e-9)
    assert (sampler.quantile(q).diff() > 0.0).all()


@pytest.mark.parametrize(
    "sampler",
    [BetaPairs(a=1.0, b=1.0), ModePairs(scale=0.0), GapFirst(a=1.0, b=2.0), EndFirst(a=2.0, b=1.0)],
    ids=repr,
)
@pytest.mark.parametrize("which", ["t", "s"])
def test_special_cases_are_uniform_pairs(sampler: TimeSamplerSettings, which: str) -> None:
    ours = sampler.marginal_cdf(which, GRID)
    uniform = UniformPairs().marginal_cdf(which, GRID)
    torch.testing.assert_close(ours, uniform, rtol=0.0, atol=1e-8)


def test_gap_first_draws_the_gap_and_then_a_uniform_start() -> None:
    t, s = draw(GapFirst(a=4.0, b=2.0), 20_000, share=0.0)
    gap = (s - t).double()
    assert distance(gap, torch.as_tensor(stats.beta(4.0, 2.0).cdf(gap.numpy()))) < 1.95
    place = t.double() / (1.0 - gap)
    assert distance(place, place) < 1.95
    assert abs(float(torch.corrcoef(torch.stack([place, gap]))[0, 1])) < 0.03


def test_logit_normal_is_reversed_with_the_sign_of_its_mean() -> None:
    here, papers = LogitNormalPairs(mean=0.4), LogitNormalPairs(mean=-0.4)
    torch.testing.assert_close(here.cdf(GRID), 1.0 - papers.cdf(1.0 - GRID))
    assert LogitNormalPairs() == here
    half = torch.tensor([0.5], dtype=torch.float64)
    assert here.quantile(half).item() == pytest.approx(1.0 / (1.0 + math.exp(-0.4)))  # nearer data


@pytest.mark.parametrize("a, b", [(0.4, 0.7), (1.0, 1.0), (3.0, 0.8), (8.0, 5.0)])
def test_uniform_part_of_a_beta_length(a: float, b: float) -> None:
    distribution = stats.beta(a, b)
    for x in (1e-4, 0.05, 0.4, 0.97):
        beyond = integrate.quad(
            lambda v, x=x: x / distribution.isf(v), 0.0, distribution.sf(x), limit=200
        )[0]
        ours = uniform_below_cdf(a, b, torch.tensor([x], dtype=torch.float64)).item()
        assert ours == pytest.approx(distribution.cdf(x) + beyond, abs=2e-5)


def test_degenerate_draws_stay_inside_the_interval() -> None:
    for sampler in (BetaPairs(a=0.01, b=0.01), LogitNormalPairs(mean=10.0, std=10.0)):
        t, s = draw(sampler, 2_000, share=0.0)
        assert torch.isfinite(t + s).all()
        assert (t >= 0.0).all()
        assert (t <= s).all()
        assert (s <= 1.0).all()


def test_faulty_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="n >= 0"):
        UniformPairs().sample(-1, Generator())
    assert UniformPairs().sample(0, Generator()).t.shape == (0,)
    for faulty in ({"kind": "beta", "a": 0.0}, {"kind": "mode", "scale": 1.8}, {"kind": "cosmap"}):
        with pytest.raises(ValidationError):
            TypeAdapter(TimeSampler).validate_python(faulty)
