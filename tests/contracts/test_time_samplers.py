"""Time samplers: their distributions by Kolmogorov-Smirnov tests, and the contract of the family."""

import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy import stats
from torch import Generator, Tensor

from meanflow_tune.core.random import make_generator
from meanflow_tune.core.types import TimePair
from meanflow_tune.settings import first_fault
from meanflow_tune.time_samplers import (
    DRAWS,
    TIME_SAMPLER_KINDS,
    Beta,
    BetaPairs,
    CosMap,
    CosMapPairs,
    EndFirst,
    GapFirst,
    Grid,
    LogitNormal,
    LogitNormalPairs,
    ModePairs,
    Nested,
    Product,
    SeparatePairs,
    Shifted,
    TimeSampler,
    TimeSamplerSettings,
    Uniform,
    UniformPairs,
    UShaped,
    UShapedPairs,
)
from tests.support.other_values import others
from tests.support.times.papers import papers_pairs
from tests.support.times.statistics import SIGNIFICANT, distance, two_sample_distance

EXAMPLES = (
    UniformPairs(),
    LogitNormalPairs(mean=-1.5, std=0.6),
    BetaPairs(a=0.5, b=3.0),
    ModePairs(scale=-0.8),
    CosMapPairs(),
    UShapedPairs(a=3.0, lowest=1.0),
    GapFirst(a=0.6, b=0.7),
    GapFirst(a=4.0, b=2.0),
    EndFirst(a=0.6, b=2.0),
    EndFirst(a=5.0, b=1.0),
    SeparatePairs(),
    SeparatePairs(start=Uniform(), end=UShaped(), pairing="sorted"),
    SeparatePairs(start=Grid(intervals=5), end=CosMap()),
    Nested(start=LogitNormal(mean=-0.5)),
    Nested(start=Grid(intervals=4)),
    Product(start=LogitNormal(mean=0.6, std=1.6), factor=Beta(a=0.5, b=0.5)),
    Product(start=CosMap(), factor=Grid(intervals=3)),
    Product(start=Grid(intervals=4), factor=Shifted(base=Grid(intervals=5))),
)
SAMPLERS = (*(kind() for kind in TIME_SAMPLER_KINDS), *EXAMPLES)
GRID = torch.linspace(0.0, 1.0, 201, dtype=torch.float64)
OWN = LogitNormal(mean=1.0, std=0.7)
WHERE = (("start", None), ("end", None), ("random", None), ("own", OWN))
LAST = 1.0 - 2.0**-53  # the largest draw below 1
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
each_example = pytest.mark.parametrize("sampler", EXAMPLES, ids=repr)


def at(sampler: TimeSamplerSettings, share: float, *where: object) -> TimeSamplerSettings:
    """The sampler with another diagonal; where: diagonal_at and diagonal, or nothing for the start."""
    place, diagonal = where or ("start", None)
    given = {"diagonal_share": share, "diagonal_at": place, "diagonal": diagonal}
    return type(sampler).model_validate(dict(sampler) | given)


def draw(
    sampler: TimeSamplerSettings, n: int, share: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    times = at(sampler, share).sample(n, make_generator(seed))
    return times.t, times.s


def uniform(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, DRAWS, generator=make_generator(seed), dtype=torch.float64)


def assert_pairs(times: TimePair) -> None:
    assert times.t.dtype == times.s.dtype == torch.float32
    assert torch.isfinite(times.t + times.s).all()
    assert (times.t >= 0.0).all()
    assert (times.t <= times.s).all()
    assert (times.s <= 1.0).all()


@each_sampler
@pytest.mark.parametrize("which", ["t", "s"])
def test_marginals(sampler: TimeSamplerSettings, which: str) -> None:
    t, s = draw(sampler, 20_000, share=0.0)
    draws = t if which == "t" else s
    assert distance(draws, lambda x: sampler.marginal_cdf(which, x)) < SIGNIFICANT


@each_sampler
@pytest.mark.parametrize("where", WHERE, ids=lambda where: where[0])
def test_the_diagonal_lies_where_it_is_set(
    sampler: TimeSamplerSettings, where: tuple[str, LogitNormal | None]
) -> None:
    times = at(sampler, 1.0, *where).sample(10_000, make_generator(1))
    assert torch.equal(times.t, times.s)

    def expected(x: Tensor) -> Tensor:
        start, end = sampler.marginal_cdf("t", x), sampler.marginal_cdf("s", x)
        choices = {"start": start, "end": end, "random": 0.5 * (start + end), "own": OWN.cdf(x)}
        return choices[where[0]]

    assert distance(times.t, expected) < SIGNIFICANT


@each_sampler
def test_only_the_diagonal_depends_on_where_it_lies(sampler: TimeSamplerSettings) -> None:
    draws, diagonal = uniform(300), torch.arange(300) % 3 == 0
    plain = sampler.pairs(draws, torch.zeros(300, dtype=torch.bool))
    for where in WHERE:
        times = at(sampler, 0.25, *where).pairs(draws, diagonal)
        assert torch.equal(times.t[diagonal], times.s[diagonal])
        assert torch.equal(times.t[~diagonal], plain.t[~diagonal])
        assert torch.equal(times.s[~diagonal], plain.s[~diagonal])
        ends = {"start": plain.t, "end": plain.s}
        ends["random"] = torch.where(draws[:, 2] < 0.5, plain.t, plain.s)
        if where[0] in ends:
            assert torch.equal(times.t[diagonal], ends[where[0]][diagonal])


@each_sampler
def test_a_pair_is_a_function_of_its_row_alone(sampler: TimeSamplerSettings) -> None:
    n = 517
    draws, diagonal = uniform(n, seed=7), torch.arange(n) % 4 == 1
    for where in WHERE:
        placed = at(sampler, 0.25, *where)
        whole = placed.pairs(draws, diagonal)
        order = torch.randperm(n, generator=make_generator(8))
        parts = [torch.tensor([3]), torch.arange(40, 111), torch.arange(5, n, 7), order]
        for rows in parts:
            part = placed.pairs(draws[rows], diagonal[rows])
            assert torch.equal(part.t, whole.t[rows])
            assert torch.equal(part.s, whole.s[rows])


@each_sampler
def test_distribution_functions(sampler: TimeSamplerSettings) -> None:
    start, end = sampler.marginal_cdf("t", GRID), sampler.marginal_cdf("s", GRID)
    for distribution in (start, end):
        assert distribution.dtype == torch.float64
        assert distribution[0].item() >= 0.0  # more than 0 where there is an atom
        assert distribution[-1].item() == pytest.approx(1.0, abs=1e-12)
        assert (distribution.diff() >= -1e-12).all()
    assert (start >= end - 1e-9).all()  # t <= s
    assert sampler.marginal_cdf("t", GRID.reshape(3, 67)).shape == (3, 67)
    assert sampler.marginal_cdf("s", GRID.reshape(3, 67)).shape == (3, 67)


@each_sampler
def test_pairs_are_ordered_and_inside_the_interval(sampler: TimeSamplerSettings) -> None:
    assert_pairs(at(sampler, 0.25).sample(5_000, make_generator(0)))
    ends = torch.tensor([0.0, 2.0**-53, 0.5, LAST], dtype=torch.float64)
    corners = torch.cartesian_prod(*([ends] * DRAWS))
    for where in WHERE:
        for diagonal in (False, True):
            flags = torch.full((len(corners),), diagonal)
            assert_pairs(at(sampler, 0.25, *where).pairs(corners, flags))


@each_sampler
@pytest.mark.parametrize(
    "n, share, expected", [(128, 0.25, 32), (10, 0.25, 3), (7, 0.5, 4), (9, 0.0, 0), (1, 1.0, 1)]
)
def test_diagonal_share_is_exact(
    sampler: TimeSamplerSettings, n: int, share: float, expected: int
) -> None:
    placed = at(sampler, share)
    rows = placed.diagonal_rows(torch.arange(n), n)
    assert rows.dtype == torch.bool
    assert int(rows.sum()) == expected
    # Any division of the global batch gives the same rows.
    shards = [placed.diagonal_rows(torch.arange(n)[rank::3], n) for rank in range(3)]
    assert [int(shard.sum()) for shard in shards] == [int(rows[rank::3].sum()) for rank in range(3)]
    t, s = draw(sampler, n, share, seed=3)
    assert t.shape == s.shape == (n,)
    assert (t == s)[rows].all()


def test_only_the_diagonal_has_equal_times() -> None:
    t, s = draw(UniformPairs(), 1_000, share=0.25)
    assert int((t == s).sum()) == 250


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
    for where in WHERE:
        placed = at(sampler, 0.25, *where)
        assert adapter.validate_python(placed.model_dump(mode="json")) == placed
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(sampler)(ratio=0.5)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValidationError):
            type(sampler)(diagonal_share=share)


@pytest.mark.parametrize("kind", TIME_SAMPLER_KINDS)
def test_every_setting_changes_the_draws(kind: type[TimeSamplerSettings]) -> None:
    base = kind().sample(64, make_generator(2))
    # Where the diagonal lies has tests of its own above.
    for name, changed in others(kind(), skip=("diagonal_at", "diagonal")):
        times = changed.sample(64, make_generator(2))
        assert not (torch.equal(times.t, base.t) and torch.equal(times.s, base.s)), name


def test_kinds_are_distinct() -> None:
    kinds = [kind().kind for kind in TIME_SAMPLER_KINDS]
    assert len(set(kinds)) == len(kinds)


@each_example
def test_pairs_are_as_the_papers_draw_them(sampler: TimeSamplerSettings) -> None:
    t, s = draw(sampler, 20_000, share=0.0, seed=4)
    theirs = papers_pairs(sampler, 20_000, np.random.default_rng(4))
    for ours, reference in zip((t, s, s.double() - t.double()), theirs, strict=True):
        # Rounded, so that rounding errors do not separate equal values.
        pair = (ours.double().numpy().round(5), reference.round(5))
        assert two_sample_distance(*pair) < SIGNIFICANT


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
    beta = stats.beta(4.0, 2.0)
    assert distance(gap, lambda x: torch.as_tensor(beta.cdf(x.numpy()))) < SIGNIFICANT
    place = t.double() / (1.0 - gap)
    assert distance(place, lambda x: x) < SIGNIFICANT
    assert abs(float(torch.corrcoef(torch.stack([place, gap]))[0, 1])) < 0.03


def test_degenerate_draws_stay_inside_the_interval() -> None:
    for sampler in (BetaPairs(a=0.01, b=0.01), LogitNormalPairs(mean=10.0, std=10.0)):
        assert_pairs(at(sampler, 0.0).sample(2_000, make_generator(0)))


def test_faulty_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="n >= 0"):
        UniformPairs().sample(-1, Generator())
    assert UniformPairs().sample(0, Generator()).t.shape == (0,)
    with pytest.raises(ValueError, match=r"needs \[n, 4\] uniform numbers and \[n\] flags"):
        UniformPairs().pairs(torch.rand(3, 2), torch.ones(3, dtype=torch.bool))
    for faulty in ({"kind": "beta", "a": 0.0}, {"kind": "mode", "scale": 1.8}, {"kind": "power"}):
        with pytest.raises(ValidationError):
            TypeAdapter(TimeSampler).validate_python(faulty)


@pytest.mark.parametrize(
    "faulty, message",
    [
        (
            {"kind": "nested", "diagonal_at": "own"},
            "nested: diagonal_at 'own' needs a distribution, but diagonal is null; give one, such as "
            "{'kind': 'logit_normal'}, or set diagonal_at to 'start'.",
        ),
        (
            {"kind": "beta", "diagonal": {"kind": "uniform"}},
            "beta: diagonal belongs to diagonal_at 'own', but got diagonal 'uniform' with diagonal_at "
            "'start'; set diagonal_at to 'own', or diagonal to null.",
        ),
    ],
)
def test_a_diagonal_and_its_distribution_belong_together(
    faulty: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError) as error:
        TypeAdapter(TimeSampler).validate_python(faulty)
    assert first_fault(error.value) == message
