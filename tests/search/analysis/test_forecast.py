"""Forecasts against cases worked out by hand and against simulated searches with random values."""

import itertools
import math
import random
from typing import Any

import pytest

from meanflow_tune.records import Report, Status, TrialRecord
from meanflow_tune.search.analysis.forecast import (
    PRIOR,
    Ladder,
    Pace,
    RungCounts,
    Work,
    count_at_rungs,
    measured_pace,
    passing_share,
    remaining_work,
    trials_within,
    wall_seconds,
)
from meanflow_tune.search.pruning.rules import Rungs
from meanflow_tune.search.pruning.standings import RungResult
from tests.support.records import build_record
from tests.support.rungs import make_rungs

IMAGES = (100, 200, 400)


def rule(**changes: Any) -> Rungs:
    return make_rungs(**({"reduction": 2.0, "promotion": False} | changes))


def simulate(ladder: Ladder, source: random.Random, agree: bool = False) -> list[int]:
    """How many trials come to each rung of a search in one slot; agree: with one value at all rungs.

    The decisions are those of `Rungs`; what spares a trial is written out again here.
    """
    given = ladder.rule
    assert given is not None
    marks: dict[tuple[int, int], list[RungResult]] = {}
    paused: dict[tuple[int, int], list[int]] = {}
    reached = [0] * len(ladder.images)
    fixed = [source.random() for _ in range(ladder.trials)]
    free = {
        n: n < ladder.baselines or source.random() < given.protect for n in range(ladder.trials)
    }

    def train(number: int, first: int) -> None:
        bracket = number % given.brackets
        for rung in range(first, len(ladder.images)):
            reached[rung] += 1
            here = marks.setdefault((rung, bracket), [])
            value = source.random()
            here.append(RungResult(number, ((fixed[number] if agree else value,),)))
            graced = sum(images >= given.grace for images in ladder.images[:rung])
            spared = free[number] or ladder.images[rung] < given.grace or graced < bracket
            if rung == len(ladder.images) - 1 or spared:
                continue
            if not given.decide(here, number).go_on:
                paused.setdefault((rung, bracket), []).append(number)
                return

    def promote() -> bool:
        for place in sorted(paused, key=lambda place: -place[0]):
            found = given.find_promotion(marks[place], paused[place])
            if given.pauses and found is not None:
                paused[place].remove(found[0])
                train(found[0], place[0] + 1)
                return True
        return False

    for number in range(ladder.trials):
        while promote():
            pass
        train(number, 0)
    while promote():
        pass
    return reached


CASES = [
    Ladder(IMAGES, rule(), 16),
    Ladder(IMAGES, rule(promotion=True), 16),
    Ladder(IMAGES, rule(promotion=True, protect=0.1), 16, baselines=6),
    Ladder(IMAGES, rule(reduction=3.0, promotion=True), 40),
    Ladder(IMAGES, rule(reduction=3.0, protect=0.2), 40, baselines=3),
    Ladder(IMAGES, rule(grace=150, promotion=True), 30),
    Ladder(IMAGES, rule(brackets=2, promotion=True, protect=0.1), 40, baselines=4),
    Ladder((50, 100, 200, 400), rule(brackets=3, grace=60), 40),
]


@pytest.mark.parametrize("ladder", CASES, ids=lambda ladder: str(ladder.rule)[:60])
def test_the_expected_numbers_are_those_of_simulated_searches(ladder: Ladder) -> None:
    searches = [simulate(ladder, random.Random(seed)) for seed in range(150)]
    for rung, numbers in enumerate(zip(*searches, strict=True)):
        mean = sum(numbers) / len(numbers)
        spread = math.sqrt(sum((n - mean) ** 2 for n in numbers) / len(numbers))
        # Four standard errors, and 2 % for treating an expected count as a count.
        near = 4.0 * spread / math.sqrt(len(numbers)) + 0.02 * mean
        assert ladder.reach[rung] == pytest.approx(mean, abs=near), f"rung {rung}"


@pytest.mark.parametrize("promotion", [False, True])
def test_of_rungs_that_agree_the_images_are_forecast_within_a_tenth(promotion: bool) -> None:
    """The other extreme: a trial has one value at all rungs."""
    ladder = Ladder(IMAGES, rule(reduction=3.0, promotion=promotion), 60)
    lengths = (100, 100, 200)
    totals = [
        sum(n * length for n, length in zip(numbers, lengths, strict=True))
        for numbers in (simulate(ladder, random.Random(s), agree=True) for s in range(100))
    ]
    assert ladder.work.images == pytest.approx(sum(totals) / len(totals), rel=0.1)


def test_shares_by_hand() -> None:
    """Of four values halved on arrival, the first two go on, of three the best, of four the best 2."""
    assert passing_share(rule(), 4) == pytest.approx((1 + 1 + 1 / 3 + 2 / 4) / 4)
    assert passing_share(rule(reduction=1.5, min_peers=2), 2) == pytest.approx((1 + 1 / 2) / 2)
    assert passing_share(rule(kind="median"), 4) == pytest.approx((1 + 1 + 1 / 2 + 1 / 2) / 4)
    assert passing_share(rule(), 4, skipped=3) == pytest.approx(2 / 4)
    assert passing_share(rule(), 0) == 1.0


def test_promotion_by_hand() -> None:
    """Over all orders of four values: the first two, the best of three, and the best two of four."""
    went = 0
    for order in itertools.permutations(range(4)):
        on = set(order[:2]) | {min(order[:3])} | {0, 1}
        went += len(on)
    assert 4 * passing_share(rule(promotion=True), 4) == pytest.approx(went / 24)


def test_work_by_hand() -> None:
    whole = Ladder(IMAGES, None, 5, repeats=2)
    assert whole.reach == [5.0, 5.0, 5.0]
    # Without a rule half of the survivors are repeated: 1, 1/2, 1/3, 2/4 and 2/5 on arrival.
    again = 2 * (1 + 1 / 2 + 1 / 3 + 2 / 4 + 2 / 5)
    assert whole.work.images == pytest.approx(5 * 400 + again * 400)
    assert whole.work.evaluations == pytest.approx(15 + again)
    assert whole.work.trials == pytest.approx(5 + again)
    baselines = Ladder(IMAGES, rule(), 4, baselines=4)
    assert baselines.work == Work(1600, 12, 4)


def test_grace_and_brackets_spare_rungs() -> None:
    ladder = Ladder((50, 100, 200, 400), rule(grace=60, brackets=3), 30)
    judged = [[ladder.can_stop(rung, bracket) for rung in range(4)] for bracket in range(3)]
    assert judged == [
        [False, True, True, False],
        [False, False, True, False],
        [False, False, False, False],
    ]


def test_times_by_hand() -> None:
    pace = Pace(image=0.01, evaluation=2.0, start=1.0)
    work = Work(images=1000, evaluations=3, trials=2)
    assert pace.seconds(work) == 10 + 6 + 2
    assert wall_seconds(work, pace, 2) == 9
    assert wall_seconds(work, pace, 6, Work(800, 1, 0)) == 10


def test_how_many_trials_a_time_affords() -> None:
    ladder, pace = Ladder(IMAGES, None, 1), Pace(0.01, 1.0, 0.0)  # 7 s a trial
    assert trials_within(70.0, ladder, pace, 1, 1000) == 10
    assert trials_within(69.0, ladder, pace, 1, 1000) == 9
    assert trials_within(70.0, ladder, pace, 2, 1000) == 20
    assert trials_within(6.9, ladder, pace, 1, 1000) == 0
    assert trials_within(1e9, ladder, pace, 1, 1000) == 1000


def record(
    number: int, status: Status, at: int, baseline: str | None = None, **changes: Any
) -> TrialRecord:
    """A trial that has reported each rung up to `at`: 10 ms an image, 2 s an evaluation, 1 s to start."""
    reports = []
    for index, images in enumerate(i for i in IMAGES if i <= at):
        wall = 0.01 * images
        when = 1000.0 + 1.0 + wall + 2.0 * (index + 1)
        reports.append(Report(images, {}, {"wall_seconds": wall}, when))
    return build_record(
        number, status, *reports, **({"baseline": baseline, "started": 1000.0} | changes)
    )


def test_the_pace_of_stored_trials() -> None:
    records = [record(0, "completed", 400), record(1, "pruned", 100), record(2, "running", 0)]
    found = measured_pace(records)
    assert found is not None
    assert found.image == pytest.approx(0.01)
    assert found.evaluation == pytest.approx(2.0)
    assert found.start == pytest.approx(1.0)
    assert measured_pace([record(0, "running", 0)]) is None


def test_what_happened_at_the_rungs() -> None:
    ladder = Ladder(IMAGES, rule(), 8, baselines=1)
    records = [
        record(0, "completed", 400, "base"),
        record(1, "pruned", 100),
        record(2, "paused", 200),
        record(3, "running", 100),
        record(4, "completed", 400, protected=True),
    ]
    assert count_at_rungs(records, ladder) == [RungCounts(5, 1, 3, 2), RungCounts(3, 1, 1, 0)]


def test_what_is_left_without_stopping() -> None:
    ladder = Ladder(IMAGES, None, 4)
    records = [record(0, "completed", 400), record(1, "running", 200), record(2, "failed", 0)]
    work, longest = remaining_work(records, ladder, {1: 250})
    assert work == Work(150 + 400, 1 + 3, 1)
    assert longest.images == 400


def test_what_is_left_uses_what_was_seen() -> None:
    """One rung, at which 3 of 4 stopped; the next trial passes it with (4 p + 1) / 8."""
    ladder = Ladder((100, 400), rule(min_peers=1), 5)
    records = [record(n, "pruned", 100) for n in range(3)] + [record(3, "completed", 400)]
    passes = (PRIOR * passing_share(rule(min_peers=1), 5) + 1) / (PRIOR + 4)
    work, _ = remaining_work(records, ladder)
    assert work.images == pytest.approx(100 + passes * 300)
    assert work.evaluations == pytest.approx(1 + passes)


def test_paused_trials_count_as_far_as_places_are_free() -> None:
    """Six of six came; three may go on, of which one did: two places for five paused ones."""
    ladder = Ladder((100, 400), rule(promotion=True), 6)
    records = [record(n, "paused", 100) for n in range(5)] + [record(5, "completed", 400)]
    work, _ = remaining_work(records, ladder)
    assert work.images == pytest.approx(5 * (2 / 5) * 300)


def test_a_finished_search_has_nothing_left() -> None:
    ladder = Ladder(IMAGES, rule(), 2)
    work, longest = remaining_work([record(0, "completed", 400), record(1, "pruned", 100)], ladder)
    assert work == Work(0, 0, 0) == longest
