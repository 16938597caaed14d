"""A rung's standings that are kept up to date decide as the results themselves would."""

import random
import statistics

import pytest

from meanflow_tune.search.objectives import Direction
from meanflow_tune.search.pareto import places
from meanflow_tune.search.pruning.standings import RungResult, Standings


@pytest.mark.parametrize("directions", [["minimize"], ["maximize"], ["minimize", "maximize"]])
def test_places_and_medians_after_any_changes(directions: list[Direction]) -> None:
    draw = random.Random(len(directions))
    standings = Standings(directions)
    known: dict[int, RungResult] = {}
    for _ in range(300):
        number = draw.randrange(40)
        if draw.random() < 0.3:
            standings.remove(number)
            known.pop(number, None)
        else:
            history = tuple(
                tuple(draw.choice([0.1, 0.5, draw.random()]) for _ in directions)
                for _ in range(draw.randint(1, 3))
            )
            known[number] = RungResult(number, history)
            standings.put(known[number])
        assert len(standings) == len(known)
        for other in (number, 99):  # one that may be there, and one that has no result yet
            own = known.get(other, RungResult(other, ((0.5,) * len(directions),)))
            check_place(standings, known, own, directions)
            means = [r.mean for n, r in known.items() if n != other]
            if len(directions) == 1:
                median, count = standings.median_mean(other)
                assert count == len(means)
                assert median == (statistics.median(means) if means else None)


def check_place(
    standings: Standings, known: dict[int, RungResult], own: RungResult, ways: list[Direction]
) -> None:
    others = [result for number, result in sorted(known.items()) if number != own.number]
    place, count = standings.place(own)
    assert count == len(others) + 1
    if len(ways) == 1:
        sign = 1.0 if ways[0] == "minimize" else -1.0
        assert place == sum(sign * r.values[0] < sign * own.values[0] for r in others)
    elif own.number not in known:
        assert place == places([r.values for r in (*others, own)], ways)[-1]


def test_the_best_that_waits() -> None:
    standings = Standings(["minimize"], [RungResult(n, ((v,),)) for n, v in enumerate([3, 1, 2])])
    waiting = sorted(standings.order_key(number) for number in (0, 2))
    assert standings.best(waiting) == (2, 1)
    assert standings.best([]) is None
