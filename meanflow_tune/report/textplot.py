"""Small plots made of block characters: curves, histograms, densities and scatters as lines of text."""

import math
from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
SHADES = " ░▒▓█"
OTHER, FRONT = "·", "●"


def sparkline(
    values: Sequence[float], low: float | None = None, high: float | None = None, floor: int = 1
) -> str:
    """One character per value, between `low` and `high` (default: theirs).

    floor: the block of the lowest value, 0 for a blank, so that of a count nothing is nothing.
    """
    if not values:
        return ""
    bottom = min(values) if low is None else low
    top = max(values) if high is None else high
    steps = len(BLOCKS) - 1 - floor
    if top <= bottom:
        return BLOCKS[floor if top <= 0.0 else len(BLOCKS) // 2] * len(values)
    shares = (min(max((value - bottom) / (top - bottom), 0.0), 1.0) for value in values)
    return "".join(BLOCKS[floor + round(share * steps)] for share in shares)


def histogram(samples: Sequence[float], bins: int, low: float = 0.0, high: float = 1.0) -> str:
    """How many samples are in each of `bins` equal parts of [low, high], from nothing to the most."""
    counts = [0] * bins
    for sample in samples:
        if low <= sample <= high:
            counts[min(int((sample - low) / (high - low) * bins), bins - 1)] += 1
    return sparkline([float(count) for count in counts], low=0.0, floor=0)


def density(x: Sequence[float], y: Sequence[float], width: int, height: int) -> list[str]:
    """The density of points of the unit square as shades, y upwards; `height` lines."""
    counts = [[0] * width for _ in range(height)]
    for a, b in zip(x, y, strict=True):
        column, row = min(int(a * width), width - 1), min(int(b * height), height - 1)
        counts[row][column] += 1
    most = max(map(max, counts), default=0)
    return ["".join(_shade(count, most) for count in row) for row in reversed(counts)]


def _shade(count: int, most: int) -> str:
    if count == 0:
        return SHADES[0]
    # The square root keeps thin parts visible next to a peak.
    return SHADES[min(1 + int(math.sqrt(count / most) * (len(SHADES) - 1)), len(SHADES) - 1)]


def scatter(
    points: Sequence[tuple[float, float]], front: Sequence[bool], width: int, height: int
) -> list[str]:
    """Points of two objectives, those on the front on top of the others; `height` lines, y upwards.

    The first objective goes to the right; both axes span the points that are given.
    """
    rows = [[" "] * width for _ in range(height)]
    if points:
        bounds = [(min(axis), max(axis)) for axis in zip(*points, strict=True)]
        for wanted, mark in ((False, OTHER), (True, FRONT)):
            for point, best in zip(points, front, strict=True):
                if best is wanted:
                    column = _cell(point[0], bounds[0], width)
                    rows[height - 1 - _cell(point[1], bounds[1], height)][column] = mark
    return ["".join(row) for row in rows]


def _cell(value: float, bounds: tuple[float, float], count: int) -> int:
    low, high = bounds
    if high <= low:
        return count // 2
    return min(int((value - low) / (high - low) * count), count - 1)
