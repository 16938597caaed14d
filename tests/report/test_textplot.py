"""Block-character plots: every line by hand, since a person reads them."""

from meanflow_tune.report.textplot import density, histogram, scatter, sparkline


def test_a_sparkline_spans_its_values() -> None:
    assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, 0.0, 1.0], floor=0) == "█ █"
    assert sparkline([-1.0, 2.0], low=0.0, high=1.0) == "▁█"
    assert sparkline([]) == ""


def test_a_flat_line_is_drawn_and_nothing_is_nothing() -> None:
    assert sparkline([0.3, 0.3]) == "▄▄"
    assert sparkline([0.0, 0.0], low=0.0, floor=0) == "  "


def test_a_histogram_counts() -> None:
    assert histogram([0.1, 0.1, 0.6, 1.0], bins=4) == "█ ▄▄"
    assert histogram([2.0, -1.0], bins=3) == "   "


def test_a_density_has_its_ordinate_upwards() -> None:
    x, y = [0.1, 0.1, 0.1, 0.1, 0.9], [0.1, 0.1, 0.1, 0.1, 0.9]
    assert density(x, y, width=3, height=2) == ["  ▓", "█  "]
    assert density([], [], 2, 1) == ["  "]
    assert density([1.0], [1.0], 2, 2) == [" █", "  "]


def test_a_scatter_puts_the_front_on_top() -> None:
    points = [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    assert scatter(points, [True, True, False, False], width=3, height=2) == ["● ·", "  ●"]
    assert scatter([(2.0, 2.0)], [True], width=3, height=1) == [" ● "]
    assert scatter([], [], width=2, height=1) == ["  "]
