"""Charts as files of their own, PNG and SVG, drawn by matplotlib on white: for papers and slides."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.files import write_atomic
from meanflow_tune.report.page.charts.chart import (
    Axis,
    Chart,
    Role,
    Scale,
    drawable,
    scales,
    ticks,
    usable_points,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg")
DPI = 200
LEGEND_LETTERS = 44  # more do not fit next to another entry
INK, FAINT, GRID = "#1c1d1f", "#5a5e66", "#e4e5e7"
# Those of the page on white.
COLOURS: dict[Role, str] = {
    "reference": "#0b66a8",
    "leader": "#b34700",
    "proposed": "#7a3b8f",
    "other": "#767b84",
    "teacher": INK,
    "ink": INK,
    "scale": "#6a6e76",
    "bad": "#b3261e",
}
MARKS = {"circle": "o", "square": "s", "diamond": "D", "triangle": "^", "cross": "x"}


def write_charts(folder: Path, charts: Sequence[Chart]) -> list[Path]:
    """NAME.png and NAME.svg of each chart that has something to draw. Raises OSError."""
    written = []
    for chart in charts:
        if not drawable(chart):
            continue
        for kind in FORMATS:
            path = folder / f"{chart.name}.{kind}"
            write_atomic(path, _drawing(chart, kind))
            written.append(path)
    return written


def _drawing(chart: Chart, kind: str) -> Callable[[Path], None]:
    def draw(path: Path) -> None:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        # Text stays text, which editors can change; one chart is one file.
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.name}):
            wide = any(len(one.label) > LEGEND_LETTERS for one in chart.legend)
            columns = 1 if wide else 2
            lines = -(-len(chart.legend) // columns)
            height = 3.2 + 0.18 * lines
            figure = Figure(figsize=(5.2, height), layout="constrained", facecolor="white")
            FigureCanvasAgg(figure)
            _draw(chart, figure.subplots())
            if len(chart.legend) > 1:
                place = {"loc": "outside lower center", "ncols": columns}
                figure.legend(fontsize=7, frameon=False, **place)
            metadata = {"Date": None} if kind == "svg" else {}
            figure.savefig(path, format=kind, dpi=DPI, metadata=metadata)

    return draw


def _draw(chart: Chart, axes: "Axes") -> None:
    named: set[str] = set()
    for one in chart.series:
        shown = usable_points(one, chart)
        if not shown:
            continue
        colour, mark = COLOURS[one.role], "" if one.mark is None else MARKS[one.mark]
        xs, ys = zip(*(point for _, point in shown), strict=True)
        style = ("--" if one.dashed else "-") if one.line else ""
        given: dict[str, Any] = {"color": colour, "alpha": one.strength, "linewidth": 1.4}
        label = one.label if one.label and one.label not in named else None
        named.add(one.label)
        axes.plot(xs, ys, linestyle=style, marker=mark, markersize=4, label=label, **given)
        for index, (x, _) in shown:
            span = one.spans[index] if index < len(one.spans) else None
            if span is not None:
                axes.plot([x, x], span, marker="_", markersize=6, **given)
    right = 1.0
    for level in chart.levels:
        axes.axhline(level.value, color=COLOURS[level.role], linestyle=":", linewidth=1)
        place = (right, level.value)
        axes.annotate(
            level.label,
            place,
            xycoords=("axes fraction", "data"),
            xytext=(-3, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color=FAINT,
        )
    _axes(chart, axes)
    axes.set_title(chart.title, fontsize=9, color=INK, loc="left")


def _axes(chart: Chart, axes: "Axes") -> None:
    x, y = scales(chart)
    axes.set_xscale("log" if chart.x.log else "linear")
    axes.set_yscale("log" if chart.y.log else "linear")
    for axis, scale, line, ends in (
        (chart.x, x, axes.xaxis, axes.set_xlim),
        (chart.y, y, axes.yaxis, axes.set_ylim),
    ):
        ends(scale.low, scale.high)
        _ticks(axis, scale, line)
    axes.set_xlabel(chart.x.label, fontsize=8, color=INK)
    axes.set_ylabel(chart.y.label, fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=FAINT, which="both")
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _ticks(axis: Axis, scale: Scale, line: Any) -> None:
    from matplotlib.ticker import NullLocator

    places = ticks(axis, scale)
    line.set_ticks([value for value, _ in places], [label for _, label in places])
    line.set_minor_locator(NullLocator())
