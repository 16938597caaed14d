"""Distributions of one time: the contract of the family, and each against an independent reference."""

import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy import stats
from torch import Tensor

from meanflow_tune.time_samplers import (
    SINGLE_TIME_KINDS,
    AnySingleTime,
    Beta,
    CosMap,
    Grid,
    LogitNormal,
    Mode,
    Shifted,
    SingleTime,
    Uniform,
    UShaped,
)
from meanflow_tune.time_samplers.shifted import shift
from tests.support.other_values import others
from tests.support.times.papers import papers_single
from tests.support.times.statistics import SIGNIFICANT, distance, two_sample_distance

EXAMPLES = (
    Uniform(),
    LogitNormal(),
    LogitNormal(mean=-4.0, std=1.6),
    Beta(a=0.5, b=3.0),
    Mode(),
    Mode(scale=-0.8),
    CosMap(),
    UShaped(),
    UShaped(a=3.0, lowest=1.0),
    UShaped(a=2.0, lowest=0.0),
    Shifted(base=LogitNormal(mean=0.0), factor=3.0),
    Shifted(base=Grid(intervals=6), factor=0.2),
    Grid(intervals=7),
    Grid(base=Shifted(base=Beta(a=2.0, b=2.0)), intervals=50),
)
TIMES = (*(kind() for kind in SINGLE_TIME_KINDS), *EXAMPLES)
CONTINUOUS = [time for time in TIMES if time.atoms() is None]
DISCRETE = [time for time in TIMES if time.atoms() is not None]
POINTS = torch.linspace(0.0, 1.0, 201, dtype=torch.float64)
LAST = 1.0 - 2.0**-53  # the largest draw below 1
each_time = pytest.mark.parametrize("time", TIMES, ids=repr)
each_continuous = pytest.mark.parametrize("time", CONTINUOUS, ids=repr)
each_discrete = pytest.mark.parametrize("time", DISCRETE, ids=repr)


def draw(time: SingleTime, n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return time.quantile(torch.rand(n, generator=generator, dtype=torch.float64))


@each_time
def test_draws_have_the_distribution(time: SingleTime) -> None:
    assert distance(draw(time, 20_000), time.cdf) < SIGNIFICANT


@pytest.mark.parametrize("time", EXAMPLES, ids=repr)
def test_draws_are_as_the_papers_draw_them(time: SingleTime) -> None:
    theirs = papers_single(time, 20_000, np.random.default_rng(1))
    # Grid values as multiples, so that rounding does not separate equal ones.
    ours, theirs = draw(time, 20_000).numpy().round(9), theirs.round(9)
    assert two_sample_distance(ours, theirs) < SIGNIFICANT


@each_time
def test_distribution_functions_rise_from_0_to_1(time: SingleTime) -> None:
    probability = time.cdf(POINTS)
    assert probability.dtype == torch.float64
    assert (probability.diff() >= -1e-12).all()
    assert probability[-1].item() == pytest.approx(1.0, abs=1e-12)
    if time.atoms() is None:
        assert probability[0].item() == pytest.approx(0.0, abs=1e-12)
    assert time.cdf(POINTS.reshape(3, 67)).shape == (3, 67)
    assert time.cdf(POINTS.float()).dtype == torch.float64


@each_time
def test_quantiles_rise_within_the_interval(time: SingleTime) -> None:
    q = torch.cat([POINTS[:-1], torch.tensor([LAST, 1.0], dtype=torch.float64)])
    times = time.quantile(q)
    assert times.dtype == torch.float64
    assert torch.isfinite(times).all()
    assert (times.diff() >= 0.0).all()
    assert times.min() >= 0.0
    assert times.max() <= 1.0
    assert time.quantile(POINTS.reshape(3, 67)).shape == (3, 67)


@each_continuous
def test_distribution_function_inverts_the_quantile(time: SingleTime) -> None:
    q = POINTS[1:-1]
    torch.testing.assert_close(time.cdf(time.quantile(q)), q, rtol=0.0, atol=1e-9)
    assert (time.quantile(q).diff() > 0.0).all()


@each_discrete
def test_atoms_are_the_steps_of_the_distribution_function(time: SingleTime) -> None:
    atoms = time.atoms()
    assert atoms is not None
    times, chances = atoms
    assert times[0] == 0.0
    assert times[-1] == 1.0
    assert (times.diff() > 0.0).all()
    assert (chances >= 0.0).all()
    middles = 0.5 * (times[1:] + times[:-1])
    torch.testing.assert_close(time.cdf(middles), chances.cumsum(0)[:-1], rtol=0.0, atol=1e-12)
    assert chances.sum().item() == pytest.approx(1.0)
    # Draws take these values only, also after rounding to float32, and each as often as it should.
    draws = draw(time, 20_000)
    nearest = (draws[:, None] - times).abs().argmin(dim=1)
    torch.testing.assert_close(times[nearest], draws, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(time.cdf(draws.float()), time.cdf(draws), rtol=0.0, atol=0.0)
    counts = torch.bincount(nearest, minlength=len(times)).double()
    common = chances * 20_000 > 20.0
    scores = (counts - 20_000 * chances)[common] / (20_000 * chances * (1.0 - chances))[
        common
    ].sqrt()
    assert scores.abs().max() < 4.0


@each_time
def test_settings_are_data(time: SingleTime) -> None:
    adapter: TypeAdapter[SingleTime] = TypeAdapter(AnySingleTime)
    assert adapter.validate_python(time.model_dump(mode="json")) == time
    assert adapter.validate_json(time.model_dump_json()) == time
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(time)(ratio=0.5)


@pytest.mark.parametrize("kind", SINGLE_TIME_KINDS)
def test_every_setting_changes_the_times(kind: type[SingleTime]) -> None:
    for name, changed in others(kind()):
        assert not torch.equal(changed.quantile(POINTS), kind().quantile(POINTS)), name


def test_kinds_are_distinct() -> None:
    kinds = [kind().kind for kind in SINGLE_TIME_KINDS]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize(
    "time, reference",
    [
        (Uniform(), stats.uniform()),
        (Beta(a=0.4, b=2.5), stats.beta(0.4, 2.5)),
        (CosMap(), lambda t: 2.0 / (math.pi * (1.0 - 2.0 * t + 2.0 * t**2))),
        (UShaped(a=4.0), lambda t: math.exp(4.0 * t) + math.exp(4.0 * (1.0 - t))),
        # Noise at time 1 in the paper: e^{au} + e^{-au} at u = 1 - t.
        (
            UShaped(a=4.0, lowest=1.0),
            lambda t: math.exp(4.0 * (1.0 - t)) + math.exp(-4.0 * (1.0 - t)),
        ),
    ],
    ids=lambda each: repr(each) if isinstance(each, SingleTime) else "",
)
def test_densities_are_the_published_ones(time: SingleTime, reference: object) -> None:
    if callable(reference):
        t = np.linspace(0.0, 1.0, 20_001)
        density = np.array([reference(x) for x in t])
        steps = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
        expected = np.interp(POINTS.numpy(), t, steps / steps[-1])
    else:
        expected = reference.cdf(POINTS.numpy())
    torch.testing.assert_close(time.cdf(POINTS), torch.as_tensor(expected), rtol=0.0, atol=1e-7)


def test_the_u_shape_is_that_of_the_published_code() -> None:
    rng, a = np.random.default_rng(5), 4.0
    rising = np.log(rng.random(20_000) * (math.exp(a) - 1.0) + 1.0) / a
    theirs = rng.permutation(np.concatenate([rising, 1.0 - rising]))[:20_000]
    ours = draw(UShaped(a=a), 20_000)
    assert two_sample_distance(ours.numpy(), 1.0 - theirs) < SIGNIFICANT


@pytest.mark.parametrize("factor", [0.1, 1.0, 3.0, 40.0])
def test_a_shift_is_the_inverse_shift_of_the_reversed_time(factor: float) -> None:
    mirrored = 1.0 - shift(1.0 - POINTS, factor)
    torch.testing.assert_close(mirrored, shift(POINTS, 1.0 / factor), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(
        shift(POINTS, factor), factor * POINTS / (1.0 + (factor - 1.0) * POINTS)
    )
    assert shift(POINTS, factor)[0] == 0.0
    assert shift(POINTS, factor)[-1] == 1.0


def test_a_logit_normal_is_reversed_with_the_sign_of_its_mean() -> None:
    here, papers = LogitNormal(mean=0.4), LogitNormal(mean=-0.4)
    torch.testing.assert_close(here.cdf(POINTS), 1.0 - papers.cdf(1.0 - POINTS))
    assert LogitNormal() == here
    half = torch.tensor([0.5], dtype=torch.float64)
    assert here.quantile(half).item() == pytest.approx(1.0 / (1.0 + math.exp(-0.4)))  # nearer data


def test_a_grid_rounds_to_the_nearest_point() -> None:
    q = torch.tensor([0.0, 0.124, 0.126, 0.5, 0.874, 0.876, LAST], dtype=torch.float64)
    assert Grid(intervals=4).quantile(q).tolist() == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert Grid(intervals=4).atoms()[1].tolist() == [0.125, 0.25, 0.25, 0.25, 0.125]


def test_faulty_settings_are_refused() -> None:
    for faulty, word in (
        ({"kind": "beta", "a": 0.0}, "a"),
        ({"kind": "mode", "scale": 1.8}, "scale"),
        ({"kind": "shifted", "factor": 0.0}, "factor"),
        ({"kind": "grid", "intervals": 0}, "intervals"),
        ({"kind": "shifted", "base": {"kind": "other"}}, "expected tags: 'beta'"),
        ({"kind": "u_shaped", "lowest": 1.5}, "lowest"),
    ):
        with pytest.raises(ValidationError, match=word):
            TypeAdapter(AnySingleTime).validate_python(faulty)
