"""A chart as data: axes, series of points, and reference lines."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from meanflow_tune.report.text import short

Point = tuple[float, float]
Span = tuple[float, float] | None
# What a series stands for; its colour in light and dark is the style sheet's.
Role = Literal["reference", "leader", "proposed", "other", "teacher", "scale", "bad", "ink"]
Mark = Literal["circle", "square", "diamond", "triangle", "cross"]


@dataclass(frozen=True)
class Axis:
    """low, high: None for the range of the data; ticks: value -> text, None for a plain choice."""

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None
    ticks: tuple[tuple[float, str], ...] | None = None


@dataclass(frozen=True)
class Series:
    """points: in the order of the line; spans: of y, an interval per point or None.

    label: in the legend, none where empty; tips: a text per point; strength: opacity, 0 to 1.
    """

    points: tuple[Point, ...]
    role: Role
    label: str = ""
    line: bool = False
    mark: Mark | None = "circle"
    dashed: bool = False
    spans: tuple[Span, ...] = ()
    tips: tuple[str, ...] = ()
    strength: float = 1.0


@dataclass(frozen=True)
class Level:
    """A horizontal line at a value of y."""

    value: float
    label: str
    role: Role = "scale"


@dataclass(frozen=True)
class Chart:
    """name: of its file; title: what is seen, in a few words; caption: how to read it.

    small: one of several next to each other.
    """

    name: str
    title: str
    caption: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    small: bool = False

    @property
    def legend(self) -> tuple[Series, ...]:
        """One series per label."""
        found: dict[str, Series] = {}
        for one in self.series:
            if one.label:
                found.setdefault(one.label, one)
        return tuple(found.values())


@dataclass(frozen=True)
class Scale:
    """Data to 0..1 along an axis."""

    low: float
    high: float
    log: bool

    def at(self, value: float) -> float:
        if self.log:
            value = max(value, self.low * 1e-3)
            return (math.log(value) - math.log(self.low)) / (
                math.log(self.high) - math.log(self.low)
            )
        return (value - self.low) / (self.high - self.low)


def drawable(chart: Chart) -> bool:
    """Whether any point can be drawn."""
    return any(_usable(p, chart) for one in chart.series for p in one.points)


def scales(chart: Chart) -> tuple[Scale, Scale]:
    """The scales of x and y: around all finite data, unless an axis sets its ends."""
    xs, ys = [], [level.value for level in chart.levels]
    for one in chart.series:
        for index, point in enumerate(one.points):
            if not _usable(point, chart):
                continue
            xs.append(point[0])
            ys.append(point[1])
            if index < len(one.spans) and (span := one.spans[index]) is not None:
                ys += [end for end in span if math.isfinite(end) and (end > 0 or not chart.y.log)]
    return _scale(chart.x, xs), _scale(chart.y, ys)


def _usable(point: Point, chart: Chart) -> bool:
    return all(
        math.isfinite(value) and (value > 0 or not axis.log)
        for value, axis in zip(point, (chart.x, chart.y), strict=True)
    )


def usable_points(one: Series, chart: Chart) -> list[tuple[int, Point]]:
    """The points that can be drawn, with their place in the series."""
    return [(i, p) for i, p in enumerate(one.points) if _usable(p, chart)]


def _scale(axis: Axis, values: Sequence[float]) -> Scale:
    values = [v for v in values if v > 0 or not axis.log] or [1.0]
    low, high = min(values), max(values)
    if axis.log:
        if low == high:
            low, high = low / 2, high * 2
        room = (high / low) ** 0.05
        low, high = low / room, high * room
    else:
        room = abs(low) * 0.1 or 0.5 if low == high else 0.05 * (high - low)
        low, high = low - room, high + room
    return Scale(
        axis.low if axis.low is not None else low,
        axis.high if axis.high is not None else high,
        axis.log,
    )


def ticks(axis: Axis, scale: Scale, most: int = 6) -> list[tuple[float, str]]:
    """At most about `most` places with their texts."""
    if axis.ticks is not None:
        return [t for t in axis.ticks if scale.low <= t[0] <= scale.high]
    places = _log_places(scale, most) if scale.log else _places(scale, most)
    return [(place, number(place)) for place in places]


def _places(scale: Scale, most: int) -> list[float]:
    raw = (scale.high - scale.low) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw)
    first = math.ceil(scale.low / step - 1e-9)
    found = []
    while first * step <= scale.high * (1 + 1e-12) + 1e-12 * step:
        found.append(first * step)
        first += 1
        if len(found) > 3 * most:
            break
    return found


def _log_places(scale: Scale, most: int) -> list[float]:
    decades = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**d for d in decades for f in factors]
        found = [value for value in found if scale.low <= value <= scale.high]
        if len(found) <= most + 1:
            break
    if len(found) > most + 1:
        found = found[:: math.ceil(len(found) / most)]
    return found if len(found) > 1 else _places(scale, most)


def number(value: float) -> str:
    """A tick or a figure: `0.05`, `12.8k`, `1.5M`."""
    size = abs(value)
    if size < 1e-12:
        return "0"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{value / unit:.4g}{name}"
    return short(float(f"{value:.4g}"))


def spread(values: Iterable[float]) -> bool:
    """Whether positive values span so much that a logarithmic axis tells more."""
    known = [value for value in values if math.isfinite(value)]
    return bool(known) and min(known) > 0 and max(known) / min(known) > 8
