"""Intervals over seeds, and who leads: coverage of a known law, exact cases, and SciPy's bootstrap."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.search.analysis.significance import compare, interval, rank_by_differences
from meanflow_tune.search.objectives import SearchObjective
from tests.support.records import build_record

GAP = SearchObjective.parse("gap@1")


def trial(number: int, *values: float, status: Any = "completed", seed: int = 5) -> TrialRecord:
    """A trial with its own value, and those of its repeats."""

    def report(value: float, repeat: int) -> Report:
        return Report(100, {"gap@1": value}, {}, 0.0, repeat=repeat)

    repeats = tuple(report(value, k) for k, value in enumerate(values[1:], start=1))
    fields = {"config": {"seed": seed}, "value": values[0], "repeats": repeats}
    return build_record(number, status, report(values[0], 0), **fields)


@pytest.mark.parametrize("values", [(3.0, 1.0), (0.2, -0.1, 0.5), (1.0, 4.0, 2.0, 9.0)])
def test_of_two_to_four_seeds_the_interval_is_their_range(values: tuple[float, ...]) -> None:
    found = interval(values)
    assert (found.low, found.high) == pytest.approx((min(values), max(values)))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.confidence == 1 - 2.0 ** (1 - len(values))


def test_resamples_are_counted_exactly() -> None:
    """Against all n^n resamples, one by one."""
    values = [0.3, -1.2, 0.8, 2.0, 0.1]
    means = sorted(np.mean(draw) for draw in itertools.product(values, repeat=5))
    quantile = stats.t.ppf(0.975, 4)
    tail = stats.norm.cdf(-math.sqrt(5 / 4) * quantile)
    found = interval(values)
    assert found.low == pytest.approx(means[math.ceil(tail * len(means)) - 1])
    assert found.high == pytest.approx(means[math.ceil((1 - tail) * len(means)) - 1])
    assert found.low > min(values)


@pytest.mark.parametrize("count", [3, 6])
def test_the_interval_of_a_normal_sample_holds_the_mean_as_often_as_it_says(count: int) -> None:
    generator = np.random.default_rng(3)
    samples = generator.normal(loc=2.0, size=(1000, count))
    found = [interval(list(sample)) for sample in samples]
    held = np.mean([one.low <= 2.0 <= one.high for one in found])  # type: ignore[operator]
    error = 3 * math.sqrt(0.05 * 0.95 / 1000) if count > 5 else 3 * math.sqrt(0.25 * 0.75 / 1000)
    assert found[0].confidence == (0.75 if count == 3 else 0.95)
    assert held == pytest.approx(found[0].confidence, abs=error + 0.01)
    if count == 6:  # what it corrects: the plain percentile interval of six values is too narrow
        plain = [stats.norm.interval(0.95, s.mean(), s.std() / math.sqrt(6)) for s in samples]
        assert np.mean([low <= 2.0 <= high for low, high in plain]) < held - 0.02


def test_many_seeds_give_the_interval_of_scipys_bootstrap() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=400)
    found = interval(list(values))
    scipy = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = scipy.high - scipy.low
    assert found.low == pytest.approx(scipy.low, abs=0.06 * width)
    assert found.high == pytest.approx(scipy.high, abs=0.06 * width)
    assert found == interval(list(values)), "no draw depends on anything but the values"


def test_one_seed_has_no_interval_and_nonsense_is_refused() -> None:
    one = interval([0.5])
    assert (one.mean, one.low, one.high, one.confidence) == (0.5, None, None, 0.0)
    assert not one.excludes_zero
    for values in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="finite and at least one"):
            interval(values)


def test_pairs_cancel_what_the_seed_does_to_both() -> None:
    """Each seed shifts both by far more than they differ: unpaired, nothing could be told."""
    shifts = (0.0, 5.0, -3.0, 2.0, -4.0, 1.0)
    better, worse = (trial(n, *(x + 0.1 * n for x in shifts)) for n in range(2))
    contest = compare(better, worse, GAP)
    assert contest is not None
    assert contest.interval.mean == pytest.approx(-0.1)
    assert contest.interval.high == pytest.approx(-0.1)
    assert not contest.undecided
    unpaired = interval([a - b for a, b in zip(shifts, reversed(shifts), strict=True)])
    assert not unpaired.excludes_zero


def test_the_leader_wins_on_all_seeds_together_not_on_the_first() -> None:
    lucky = trial(0, 0.10, 0.30, 0.31)
    steady = trial(1, 0.12, 0.20, 0.22)
    close = trial(2, 0.13, 0.19, 0.23)
    found = rank_by_differences(
        [lucky, steady, close, trial(3, 0.9), trial(4, 0.01, status="pruned")], GAP
    )
    assert [record.number for record in found.order] == [1, 2, 0, 3]
    assert {contest.other for contest in found.undecided} == {0, 2}
    assert {len(contest.differences) for contest in found.undecided} == {3}
    apart = rank_by_differences([steady, trial(2, 0.14, 0.25, 0.28)], GAP)
    assert apart.undecided == ()


def test_a_trial_without_repeats_is_compared_on_its_own_seed() -> None:
    repeated = trial(0, 0.20, 0.10, 0.12)
    found = rank_by_differences([repeated, trial(1, 0.15)], GAP)
    assert [record.number for record in found.order] == [1, 0]
    assert found.undecided == (), "one seed tells nothing about luck"
    assert [r.number for r in rank_by_differences([repeated, trial(1, 0.25)], GAP).order] == [0, 1]


def test_without_repeats_the_leader_is_the_best_value() -> None:
    records = [trial(0, 0.3), trial(1, 0.1), trial(2, 0.1), trial(3, 0.2)]
    assert [record.number for record in rank_by_differences(records, GAP).order] == [1, 2, 3, 0]
    highest = SearchObjective.parse("gap@1", "maximize")
    assert [record.number for record in rank_by_differences(records, highest).order] == [0, 3, 1, 2]
    assert rank_by_differences([], GAP).order == ()


def test_direction_counts_in_pairs_too() -> None:
    highest = SearchObjective.parse("gap@1", "maximize")
    found = rank_by_differences([trial(0, 0.1, 0.2, 0.3), trial(1, 0.2, 0.3, 0.5)], highest)
    assert found.order[0].number == 1
    assert found.undecided == ()


def test_own_runs_on_different_seeds_are_not_paired() -> None:
    """Of a space that searches the seed: only the repeats are on common seeds."""
    one, other = trial(0, 9.0, 0.1, 0.1, seed=1), trial(1, 0.0, 0.2, 0.2, seed=2)
    contest = compare(one, other, GAP)
    assert contest is not None
    assert list(contest.differences) == ["repeat 1", "repeat 2"]
    assert compare(trial(0, 1.0, seed=1), trial(1, 2.0, seed=2), GAP) is None
