"""Simulated time against hand-made timetables, and the statistics against scipy and closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.replay.simulation import simulate
from benchmarks.replay.statistics import (
    best_so_far,
    compare,
    estimate_iqm,
    interquartile_mean,
)
from benchmarks.replay.table import Curve
from meanflow_tune.records import Decision, Job, Outcome, Report


class Queue:
    """Hands out numbered jobs and stops those it is told to, after their first rung."""

    def __init__(self, count: int, stop: dict[int, int] | None = None) -> None:
        self.left = list(range(count))
        self.stop = dict(stop or {})  # number -> how many times it stops before it may go on
        self.seen: list[tuple[float, int, int]] = []
        self.ended: list[tuple[int, str]] = []
        self.paused: list[int] = []

    def next(self) -> Job | None:
        queue = self.left or self.paused
        return Job("s", number := queue.pop(0), {"n": number}, "", 0, 0) if queue else None

    def record(self, number: int, report: Report) -> Decision:
        self.seen.append((report.time, number, report.images))
        stops = self.stop.get(number, 0)
        self.stop[number] = stops - 1
        return Decision(stops <= 0, "")

    def finish(self, number: int, outcome: Outcome) -> None:
        self.ended.append((number, outcome.status))
        if outcome.status == "pruned":
            self.paused.append(number)


def test_the_clock_of_several_workers() -> None:
    """Trials of 3, 1, 1 and 5 on two workers: the second serves both short ones."""
    lengths = [3.0, 1.0, 1.0, 5.0]
    queue = Queue(4)
    run = simulate(queue, lambda c: Curve((c["n"],), (lengths[c["n"]],)), (1,), 2, 100.0)
    assert run.completed == ((1.0, 1), (2.0, 2), (3.0, 0), (7.0, 3))
    assert (run.started, run.spent) == (4, 10.0)
    # At the deadline 6.5 of the 10 are spent, and trial 3 is lost.
    run = simulate(Queue(4), lambda c: Curve((c["n"],), (lengths[c["n"]],)), (1,), 2, 3.5)
    assert run.completed == ((1.0, 1), (2.0, 2), (3.0, 0))
    assert (run.started, run.spent) == (4, 3.0 + 1.0 + 1.0 + 1.5)


def test_a_paused_trial_goes_on_where_it_stopped() -> None:
    queue = Queue(2, stop={0: 1})
    run = simulate(queue, lambda c: Curve((9.0, 5.0), (1.0, 4.0)), (10, 20), 1, 100.0)
    # Trial 0 stops at 1, trial 1 takes until 5, then trial 0 needs 3 more; no rung is run twice.
    assert queue.seen == [(1.0, 0, 10), (2.0, 1, 10), (5.0, 1, 20), (8.0, 0, 20)]
    assert queue.ended == [(0, "pruned"), (1, "completed"), (0, "completed")]
    assert (run.completed, run.started, run.spent) == (((5.0, 5.0), (8.0, 5.0)), 2, 8.0)


def test_a_diverging_trial_costs_time_and_gives_nothing() -> None:
    queue = Queue(2)
    curves = [Curve((9.0,), (1.0, 4.0)), Curve((9.0, 5.0), (1.0, 4.0))]
    run = simulate(queue, lambda c: curves[c["n"]], (10, 20), 1, 100.0)
    assert run.completed == ((8.0, 5.0),)
    assert queue.ended == [(0, "diverged"), (1, "completed")]


def test_the_interquartile_mean() -> None:
    assert interquartile_mean([100.0, 1.0, 2.0, 3.0, 4.0, -50.0, 5.0, 6.0]) == pytest.approx(3.5)
    values = np.random.default_rng(1).normal(size=(41, 3))
    cut = 41 // 4
    expected = np.sort(values, axis=0)[cut:-cut].mean(axis=0)
    assert interquartile_mean(values) == pytest.approx(expected)
    # Where no more than a quarter is missing (infinite regret), it is not counted.
    assert interquartile_mean([1.0, 2.0, 3.0, math.inf]) == pytest.approx(2.5)


def test_bootstrap_intervals_agree_with_scipy() -> None:
    values = np.random.default_rng(2).normal(1.0, 2.0, size=60)
    ours = estimate_iqm(values[:, None])[0]
    theirs = stats.bootstrap(
        (values,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile",
        n_resamples=20_000, rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    assert ours.value == pytest.approx(stats.trim_mean(values, 0.25))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.06)
    mean = compare(values, np.zeros(60)).mean
    assert mean.value == pytest.approx(values.mean())
    half = 1.96 * values.std(ddof=1) / math.sqrt(60)
    assert (mean.low, mean.high) == pytest.approx((mean.value - half, mean.value + half), abs=0.1)


def test_verdicts() -> None:
    noise = np.random.default_rng(4).normal(0.0, 0.1, size=40)
    assert compare(noise - 1.0, noise[::-1]).decision == "ahead"
    assert compare(noise + 1.0, noise[::-1]).decision == "behind"
    assert compare(noise, noise[::-1]).decision == "cannot be told apart"
    assert compare([0.0, 1.0, 2.0, 5.0], [1.0, 1.0, 2.0, 1.0]).wins == pytest.approx(0.5)
    with pytest.raises(ValueError, match="completed no trial in its budget"):
        compare([0.0, math.inf], [0.0, 1.0])


def test_the_best_so_far() -> None:
    done = ((1.0, 5.0), (2.0, 7.0), (4.0, 3.0))
    found = best_so_far(done, [0.5, 1.0, 3.9, 4.0], minimize=True)
    assert np.isnan(found[0])
    assert found[1:].tolist() == [5.0, 5.0, 3.0]
    assert best_so_far(done, [2.0], minimize=False).tolist() == [7.0]
