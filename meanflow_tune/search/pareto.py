"""Several objectives: non-dominated points, the order of points, and the hypervolume of a front.

Pure functions of points, one tuple of finite values per trial, and one direction per objective. A point
dominates another if it is nowhere worse and somewhere better; equal points do not dominate each other.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meanflow_tune.search.objectives import Direction

Points = Sequence[Sequence[float]]
_Array = NDArray[np.float64]


def non_dominated(values: Points, directions: Sequence[Direction]) -> list[bool]:
    """Which points are non-dominated. Raises ValueError for points that do not fit."""
    return [bool(best) for best in _front(_smaller_is_better(values, directions))]


def ranks(values: Points, directions: Sequence[Direction]) -> list[int]:
    """The front of each point, from 0: the non-dominated ones, then those of the rest, and so on.

    Non-dominated sorting (Deb et al., "A fast and elitist multiobjective genetic algorithm", 2002).
    Raises ValueError for points that do not fit.
    """
    return _ranks(_smaller_is_better(values, directions))


def places(values: Points, directions: Sequence[Direction]) -> list[int]:
    """A strict order, the place of each point from 0: by front, then by crowding distance.

    With the crowding distance of NSGA-II (same source) the ends of a front come first, then points far
    from their neighbours; among equals the earlier point comes first. With one objective it is the
    order of the values. Raises ValueError for points that do not fit.
    """
    points = _smaller_is_better(values, directions)
    fronts = np.asarray(_ranks(points), dtype=np.int64)
    distance = np.zeros(len(points))
    for front in np.unique(fronts):
        rows = np.flatnonzero(fronts == front)
        distance[rows] = _crowding(points[rows])
    order = sorted(range(len(points)), key=lambda row: (fronts[row], -distance[row], row))
    return [int(place) for place in np.argsort(order)]


def hypervolume(
    values: Points, reference: Sequence[float], directions: Sequence[Direction]
) -> float:
    """The volume that the points dominate, out to `reference`; larger is better, 0 without points.

    In units of the product of the objectives. A point that is not better than the reference
    everywhere adds nothing. Exact, by slices along the last objective: n log n for two objectives and
    a factor n for each further one. Raises ValueError for points that do not fit.
    """
    corner = _smaller_is_better([reference], directions)[0]
    points = _smaller_is_better(values, directions)
    return _volume(points[(points < corner).all(axis=1)], corner)


def reference_point(values: Points, directions: Sequence[Direction]) -> tuple[float, ...]:
    """The worst value of each objective among the points, as the reference of a hypervolume.

    Meant for the baselines of a search, so that it is fixed during the search. Raises ValueError for
    points that do not fit, and for no points.
    """
    if not values:
        raise ValueError("a reference point needs at least one point")
    worst = _smaller_is_better(values, directions).max(axis=0)
    return tuple(float(x) for x in _signs(directions) * worst)


def _signs(directions: Sequence[Direction]) -> _Array:
    return np.array([1.0 if direction == "minimize" else -1.0 for direction in directions])


def _smaller_is_better(values: Points, directions: Sequence[Direction]) -> _Array:
    """[N, M] with maximised objectives negated."""
    count = len(directions)
    for point in values:
        if len(point) != count or not all(math.isfinite(value) for value in point):
            raise ValueError(f"a point must have {count} finite values, but got {tuple(point)}")
    return np.array(values, dtype=np.float64).reshape(len(values), count) * _signs(directions)


def _ranks(points: _Array) -> list[int]:
    found = np.zeros(len(points), dtype=np.int64)
    left = np.arange(len(points))
    front = 0
    while len(left):
        best = _front(points[left])
        found[left[~best]] = front + 1
        left, front = left[~best], front + 1
    return [int(rank) for rank in found]


def _front(points: _Array) -> NDArray[np.bool_]:
    """Which rows no other row dominates."""
    best = np.zeros(len(points), dtype=np.bool_)
    # In this order no point dominates an earlier one, so that the first one left is on the front.
    left = np.lexsort(points.T[::-1])
    while len(left):
        first = points[left[0]]
        same = (points[left] == first).all(axis=1)
        best[left[same]] = True
        left = left[(points[left] < first).any(axis=1)]
    return best


def _crowding(points: _Array) -> _Array:
    """Crowding distance of the rows of one front; infinite at its ends."""
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = math.inf
        if spread > 0.0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distance


def _volume(points: _Array, corner: _Array) -> float:
    """Volume between `corner` and the rows, all of which are below it."""
    if not len(points):
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - points.min())
    if len(corner) == 2:
        return _area(points, corner)
    order = points[np.argsort(points[:, -1], kind="stable")]
    edges = np.append(order[:, -1], corner[-1])
    total = 0.0
    for row in range(len(order)):
        if edges[row + 1] > edges[row]:
            slab = order[: row + 1, :-1]
            total += float(edges[row + 1] - edges[row]) * _volume(slab[_front(slab)], corner[:-1])
    return total


def _area(points: _Array, corner: _Array) -> float:
    order = points[np.lexsort(points.T[::-1])]
    lowest = np.minimum.accumulate(order[:, 1])
    widths = np.append(order[1:, 0], corner[0]) - order[:, 0]
    return float((widths * (corner[1] - lowest)).sum())
