"""A chart as an SVG element of the page, whose colours follow the style sheet."""

from collections.abc import Iterator

from meanflow_tune.report.page.charts.chart import (
    Chart,
    Mark,
    Scale,
    Series,
    drawable,
    scales,
    ticks,
    usable_points,
)
from meanflow_tune.report.page.markup import Html, join, paragraph, tag, text

LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 10.0, 42.0
RADIUS = 4.0
# Tooltips of more points than this would be most of the page.
MOST_TIPS = 3000


def figure_of(chart: Chart) -> Html:
    """The chart with its title, legend and caption; a sentence where it has nothing to show."""
    if not drawable(chart):
        return paragraph(f"{chart.title}: there is nothing to draw yet.", class_="missing")
    caption = tag("figcaption", tag("b", f"{chart.title}."), " ", chart.caption)
    return tag(
        "figure",
        _legend(chart),
        svg(chart),
        caption,
        class_="chart small" if chart.small else "chart",
        data_chart=chart.name,
    )


def _legend(chart: Chart) -> Html:
    entries = [tag("li", _swatch(one), one.label, class_=f"of-{one.role}") for one in chart.legend]
    many = len(entries) > 1 and not chart.small
    return tag("ul", *entries, class_="legend") if many else Html("")


def _swatch(one: Series) -> Html:
    parts = []
    if one.line:
        dash = ' stroke-dasharray="4 3"' if one.dashed else ""
        parts.append(f'<path class="line" d="M0 6H24"{dash}/>')
    if one.mark is not None:
        parts.append(_mark(one.mark, 12.0, 6.0))
    inner = Html("".join(parts))
    return Html(
        f'<svg class="of-{one.role}" width="24" height="12" aria-hidden="true" focusable="false">'
        f"{inner}</svg>"
    )


def svg(chart: Chart) -> Html:
    """The drawing alone, with a name and a description for who cannot see it."""
    width, height = (320.0, 220.0) if chart.small else (680.0, 340.0)
    plot = _Plot(chart, width, height)
    name, description = f"{chart.name}-title", f"{chart.name}-text"
    head = (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-labelledby="{text(name)} {text(description)}">'
        f'<title id="{text(name)}">{text(chart.title)}</title>'
        f'<desc id="{text(description)}">{text(chart.caption)}</desc>'
    )
    return Html(head + "".join(plot.parts()) + "</svg>")


class _Plot:
    def __init__(self, chart: Chart, width: float, height: float) -> None:
        self.chart = chart
        self.x, self.y = scales(chart)
        self.width, self.height = width, height
        points = sum(len(one.points) for one in chart.series if one.tips)
        self.tips = points <= MOST_TIPS

    def place(self, x: float, y: float) -> tuple[float, float]:
        return self._x(x), self._y(y)

    def _x(self, value: float) -> float:
        return LEFT + _bound(self.x, value) * (self.width - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        return self.height - BOTTOM - _bound(self.y, value) * (self.height - TOP - BOTTOM)

    def parts(self) -> Iterator[str]:
        yield from self._axes()
        for level in self.chart.levels:
            y = self._y(level.value)
            yield f'<path class="level of-{level.role}" d="M{LEFT:g} {y:.1f}H{self.width - RIGHT:g}"/>'
            yield (
                f'<text class="note" x="{self.width - RIGHT:g}" y="{y - 4:.1f}" '
                f'text-anchor="end">{text(level.label)}</text>'
            )
        for one in self.chart.series:
            yield from self._series(one)

    def _axes(self) -> Iterator[str]:
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        across, up = (4, 4) if self.chart.small else (7, 6)
        for value, label in ticks(self.chart.y, self.y, up):
            y = self._y(value)
            yield f'<path class="grid" d="M{LEFT:g} {y:.1f}H{right:g}"/>'
            yield (
                f'<text class="tick" x="{LEFT - 8:g}" y="{y + 4:.1f}" text-anchor="end">'
                f"{text(label)}</text>"
            )
        for value, label in ticks(self.chart.x, self.x, across):
            x = self._x(value)
            yield f'<path class="axis" d="M{x:.1f} {bottom:g}v4"/>'
            yield (
                f'<text class="tick" x="{x:.1f}" y="{bottom + 17:g}" text-anchor="middle">'
                f"{text(label)}</text>"
            )
        yield f'<path class="axis" d="M{LEFT:g} {bottom:g}H{right:g}"/>'
        middle = (LEFT + right) / 2
        yield (
            f'<text class="label" x="{middle:g}" y="{self.height - 6:g}" text-anchor="middle">'
            f"{text(self.chart.x.label)}</text>"
        )
        half = (TOP + bottom) / 2
        yield (
            f'<text class="label" transform="translate(12 {half:g}) rotate(-90)" '
            f'text-anchor="middle">{text(self.chart.y.label)}</text>'
        )

    def _series(self, one: Series) -> Iterator[str]:
        shown = usable_points(one, self.chart)
        if not shown:
            return
        yield f'<g class="of-{one.role}" opacity="{one.strength:.2f}">'
        if one.line and len(shown) > 1:
            path = "L".join("{:.1f} {:.1f}".format(*self.place(*point)) for _, point in shown)
            dash = ' stroke-dasharray="5 4"' if one.dashed else ""
            yield f'<path class="line" d="M{path}"{dash}/>'
        for index, point in shown:
            x, y = self.place(*point)
            span = one.spans[index] if index < len(one.spans) else None
            if span is not None:
                low, high = self._y(span[0]), self._y(span[1])
                ends = f"m-4 0h8m-4 {low - high:.1f}m-4 0h8"
                yield f'<path class="span" d="M{x:.1f} {low:.1f}V{high:.1f}{ends}"/>'
            if one.mark is not None:
                tip = one.tips[index] if self.tips and index < len(one.tips) else ""
                yield _mark(one.mark, x, y, tip)
        yield "</g>"


def _bound(scale: Scale, value: float) -> float:
    """Within a little more than the plot, so that a stray point draws no line over the page."""
    return min(max(scale.at(value), -0.02), 1.02)


def _mark(mark: Mark, x: float, y: float, tip: str = "") -> str:
    r = RADIUS
    inner = f"<title>{text(tip)}</title>" if tip else ""
    shapes = {
        "square": f"M{x - r + 0.5:.1f} {y - r + 0.5:.1f}h{2 * r - 1:g}v{2 * r - 1:g}h{1 - 2 * r:g}z",
        "diamond": f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z",
        "triangle": f"M{x:.1f} {y - r - 0.5:.1f}l{r + 0.5:g} {2 * r:g}h{-2 * r - 1:g}z",
        "cross": f"M{x - r:.1f} {y - r:.1f}l{2 * r:g} {2 * r:g}m0 {-2 * r:g}l{-2 * r:g} {2 * r:g}",
    }
    if mark == "circle":
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{r:g}">{inner}</circle>'
    kind = "stroke" if mark == "cross" else "mark"
    return f'<path class="{kind}" d="{shapes[mark]}">{inner}</path>'


def charts_in_a_row(charts: list[Chart]) -> Html:
    """Small charts next to each other, with one legend."""
    known: dict[str, Series] = {}
    for chart in charts:
        for one in chart.legend:
            known.setdefault(one.label, one)
    entries = [tag("li", _swatch(one), label) for label, one in known.items()]
    legend = tag("ul", *entries, class_="legend") if len(entries) > 1 else Html("")
    return join([legend, tag("div", *(figure_of(chart) for chart in charts), class_="row")])
