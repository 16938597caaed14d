"""Charts: ticks at round numbers, scales around the data, and drawings of whatever numbers come."""

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from meanflow_tune.report.page.charts.chart import (
    Axis,
    Chart,
    Level,
    Scale,
    Series,
    drawable,
    number,
    scales,
    spread,
    ticks,
)
from meanflow_tune.report.page.charts.paper_charts import write_charts
from meanflow_tune.report.page.charts.svg_chart import figure_of, svg


def chart(*points: tuple[float, float], log: bool = False, **fields: object) -> Chart:
    series = (Series(points, "leader", "a <b>", line=True, tips=("tip & more",) * len(points)),)
    given = {"series": series, "name": "c", "title": "T <i>", "caption": "C &"} | fields
    return Chart(x=Axis("x", log), y=Axis("y", log), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "low, high, log, expected",
    [
        (0.0, 1.0, False, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.0, 3.0, False, [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]),
        (0.01, 1.0, True, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]),
        (1e-6, 1.0, True, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        (0.011, 0.0118, True, [0.011, 0.0112, 0.0114, 0.0116, 0.0118]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, log: bool, expected: list[float]) -> None:
    found = [place for place, _ in ticks(Axis("x", log), Scale(low, high, log))]
    assert found == pytest.approx(expected)


def test_ticks_of_any_range_are_few_and_inside() -> None:
    for low in (1e-9, 0.003, 0.9, 7.0, 1234.5, 1e8):
        for ratio in (1.0001, 1.3, 2.0, 30.0, 1e5):
            for log in (False, True):
                scale = Scale(low, low * ratio, log)
                found = [place for place, _ in ticks(Axis("x", log), scale)]
                assert len(found) <= 10
                assert all(low * (1 - 1e-6) <= p <= low * ratio * (1 + 1e-6) for p in found)


def test_numbers_are_short() -> None:
    values = [0.0, 0.05, 12800.0, 1_500_000.0, 2e9, -300.0, 1e-17]
    assert [number(v) for v in values] == ["0", "0.05", "12.8k", "1.5M", "2G", "-300", "0"]


def test_scales_hold_points_intervals_and_levels() -> None:
    one = Series(((1.0, 2.0),), "leader", spans=((1.0, 5.0),))
    x, y = scales(chart(series=(one,), levels=(Level(9.0, "noise"),)))
    assert x.low < 1.0 < x.high
    assert y.low < 1.0
    assert y.high > 9.0


def test_one_value_has_a_scale() -> None:
    for log in (False, True):
        x, _ = scales(chart((3.0, 3.0), log=log))
        assert 0.0 < x.at(3.0) < 1.0


def test_what_cannot_be_drawn_is_left_out() -> None:
    nan, inf = math.nan, math.inf
    assert not drawable(chart((nan, 1.0), (1.0, inf)))
    assert not drawable(chart((-1.0, 1.0), log=True))
    made = figure_of(chart((nan, 1.0)))
    assert "there is nothing to draw yet" in made
    assert "nan" not in svg(chart((nan, 1.0), (1.0, 2.0), (2.0, inf)))


def test_a_drawing_is_valid_named_and_escaped() -> None:
    made = svg(chart((1.0, 2.0), (2.0, 1.0), levels=(Level(1.5, "a < b"),)))
    root = ET.fromstring(made)
    assert root.attrib["role"] == "img"
    title, description, *_ = root
    assert (title.text, description.text) == ("T <i>", "C &")
    assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
    assert made.count("<circle") == 2
    assert made.count("<title>tip &amp; more</title>") == 2


def test_tips_of_too_many_points_are_left_out() -> None:
    points = tuple((float(k), float(k)) for k in range(4000))
    assert "tip" not in svg(chart(*points))


def test_a_wide_range_is_drawn_in_the_logarithm() -> None:
    assert spread([0.1, 1.0])
    assert not spread([0.1, 0.2])
    assert not spread([0.0, 1.0])
    assert not spread([])


def test_files_for_papers_show_the_same(tmp_path: Path) -> None:
    empty = chart((math.nan, 1.0))
    good = chart((1.0, 2.0), (2.0, 1.0), levels=(Level(1.5, "noise"),))
    written = write_charts(tmp_path, [empty, good])
    assert [path.name for path in written] == ["c.png", "c.svg"]
    text = (tmp_path / "c.svg").read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    assert "noise" in text
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
