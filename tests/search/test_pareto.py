"""Fronts, places and hypervolumes against definitions written out, and against Optuna's."""

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from meanflow_tune.search.pareto import (
    Direction,
    hypervolume,
    non_dominated,
    places,
    ranks,
    reference_point,
)

Point = tuple[float, ...]
MIXED: tuple[Direction, ...] = ("minimize", "maximize", "minimize", "maximize")


def directions(count: int) -> tuple[Direction, ...]:
    return MIXED[:count]


def better_or_equal(a: Point, b: Point) -> list[bool]:
    return [
        x <= y if way == "minimize" else x >= y
        for x, y, way in zip(a, b, directions(len(a)), strict=True)
    ]


def dominates(a: Point, b: Point) -> bool:
    return all(better_or_equal(a, b)) and a != b


def peel(points: Sequence[Point]) -> list[int]:
    """Fronts by their definition."""
    found: dict[int, int] = {}
    while len(found) < len(points):
        left = [i for i in range(len(points)) if i not in found]
        front = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        level = max(found.values(), default=-1) + 1
        found |= dict.fromkeys(front, level)
    return [found[i] for i in range(len(points))]


def draw(count: int, objectives: int, seed: int, grid: int = 8) -> list[Point]:
    """Points on a coarse grid, so that values tie and points repeat."""
    source = random.Random(seed)
    return [tuple(source.randrange(grid) / grid for _ in range(objectives)) for _ in range(count)]


CASES = list(itertools.product((1, 2, 3, 4), (1, 2, 7, 40), (0, 1)))


@pytest.mark.parametrize(("objectives", "count", "seed"), CASES)
def test_fronts_are_those_of_the_definition(objectives: int, count: int, seed: int) -> None:
    points = draw(count, objectives, seed)
    expected = peel(points)
    assert ranks(points, directions(objectives)) == expected
    assert non_dominated(points, directions(objectives)) == [rank == 0 for rank in expected]


@pytest.mark.parametrize(("objectives", "count", "seed"), CASES)
def test_places_are_a_strict_order_that_respects_fronts(
    objectives: int, count: int, seed: int
) -> None:
    points = draw(count, objectives, seed)
    found = places(points, directions(objectives))
    assert sorted(found) == list(range(count))
    fronts = peel(points)
    in_order = [fronts[row] for row in np.argsort(found)]
    assert in_order == sorted(fronts)


def test_places_within_a_front_by_crowding_distance() -> None:
    """Distances by hand: ends infinite; (2/8 + 2/8), (4/8 + 4/8), (6/8 + 6/8) inside."""
    points = [(0.0, 8.0), (1.0, 7.0), (2.0, 6.0), (5.0, 3.0), (8.0, 0.0), (9.0, 9.0)]
    assert places(points, ("minimize", "minimize")) == [0, 4, 3, 2, 1, 5]


def test_places_of_one_objective_are_the_order_of_values() -> None:
    values = [(3.0,), (1.0,), (2.0,), (1.0,)]
    assert places(values, ("minimize",)) == [3, 0, 2, 1]
    assert places(values, ("maximize",)) == [0, 2, 1, 3]


def test_places_do_not_depend_on_the_order_of_distinct_trials() -> None:
    source = random.Random(3)
    points: list[Point] = [(source.random(), source.random()) for _ in range(30)]
    where = dict(zip(points, places(points, directions(2)), strict=True))
    mixed = source.sample(points, len(points))
    again = dict(zip(mixed, places(mixed, directions(2)), strict=True))
    # Only the two ends of a front, both infinitely far from a neighbour, may change places.
    fronts = dict(zip(points, ranks(points, directions(2)), strict=True))
    for front in set(fronts.values()):
        members = [p for p in points if fronts[p] == front]
        ends = {min(members), max(members)}
        assert {where[p] for p in ends} == {again[p] for p in ends}
        assert all(where[p] == again[p] for p in members if p not in ends)


@pytest.mark.parametrize(("objectives", "count", "seed"), CASES)
def test_hypervolume_is_the_share_of_cells_that_are_dominated(
    objectives: int, count: int, seed: int
) -> None:
    """On a grid the volume is a count of cells; maximised objectives count from the other side."""
    grid = 5
    points = draw(count, objectives, seed, grid)
    ways = directions(objectives)
    reference = tuple(1.0 if way == "minimize" else -0.2 for way in ways)
    cells = 0
    for cell in itertools.product(range(6), repeat=objectives):
        middle = tuple(
            c / grid + 0.1 - (0.0 if w == "minimize" else 0.2)
            for c, w in zip(cell, ways, strict=True)
        )
        inside = all(better_or_equal(middle, reference))
        cells += inside and any(all(better_or_equal(point, middle)) for point in points)
    expected = cells / grid**objectives
    assert hypervolume(points, reference, ways) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("objectives", "count"), [(2, 60), (3, 40), (4, 25)])
def test_hypervolume_agrees_with_optuna(objectives: int, count: int) -> None:
    from optuna._hypervolume import compute_hypervolume

    source = np.random.default_rng(count)
    points = source.random((count, objectives))
    reference = np.full(objectives, 0.9)
    ways: tuple[Direction, ...] = ("minimize",) * objectives
    expected = compute_hypervolume(points[(points < reference).all(axis=1)], reference)
    found = hypervolume(points.tolist(), reference.tolist(), ways)
    assert found == pytest.approx(expected, rel=1e-12)


def test_hypervolume_of_nothing_is_nothing() -> None:
    ways: tuple[Direction, ...] = ("minimize", "minimize")
    assert hypervolume([], (1.0, 1.0), ways) == 0.0
    assert hypervolume([(1.0, 0.0), (2.0, 2.0)], (1.0, 1.0), ways) == 0.0
    assert hypervolume([(0.25, 0.5)], (1.0, 1.0), ways) == 0.375


def test_the_reference_is_the_worst_of_each_objective() -> None:
    points = [(1.0, 5.0), (3.0, 2.0)]
    assert reference_point(points, ("minimize", "maximize")) == (3.0, 2.0)
    with pytest.raises(ValueError, match="at least one"):
        reference_point([], ("minimize",))


@pytest.mark.parametrize("point", [(1.0,), (1.0, math.nan), (math.inf, 0.0)])
def test_points_that_do_not_fit_are_refused(point: Point) -> None:
    for function in (non_dominated, ranks, places):
        with pytest.raises(ValueError, match="2 finite values"):
            function([(0.0, 0.0), point], ("minimize", "minimize"))
