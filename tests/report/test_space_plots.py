"""Plots of time samplers: every member, also with atoms, and where the diagonal is."""

import pytest
from rich.console import Console

from meanflow_tune.report.space_plots import show_plots
from meanflow_tune.time_samplers import (
    TIME_SAMPLER_KINDS,
    Grid,
    LogitNormal,
    Nested,
    Product,
    SeparatePairs,
    Shifted,
    TimeSamplerSettings,
    Uniform,
    UniformPairs,
)
from tests.support.tiny_run import tiny_config

WITH_ATOMS = (
    SeparatePairs(start=Grid(intervals=3), end=Grid(intervals=1)),
    Nested(start=Grid(base=Shifted(), intervals=4), diagonal_share=1.0),
    Product(factor=Grid(intervals=2)),
)


def plotted(sampler: TimeSamplerSettings, capsys: pytest.CaptureFixture[str], width: int) -> str:
    show_plots(Console(width=width), [tiny_config(time_sampler=sampler)])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    assert "nan" not in text
    return text


@pytest.mark.parametrize("width", [80, 110])
@pytest.mark.parametrize(
    "sampler", [*(kind() for kind in TIME_SAMPLER_KINDS), *WITH_ATOMS], ids=repr
)
def test_every_time_sampler_is_drawn(
    sampler: TimeSamplerSettings, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    text = plotted(sampler, capsys, width)
    assert f"┐  {sampler.kind}" in text
    assert f"{100 * sampler.diagonal_share:.0f} % with t = s, at the start" in text
    # Something is drawn in the square and in each of the three histograms.
    squares = [line.split("│")[1] for line in text.splitlines() if line.count("│") == 2]
    assert "".join(squares).strip()
    for name in ("    t ", "    s ", "s - t "):
        line = next(line for line in text.splitlines() if f"│  {name}" in line)
        assert any(block in line for block in "▁▂▃▄▅▆▇█")


def test_words_name_the_settings_and_the_diagonal(capsys: pytest.CaptureFixture[str]) -> None:
    text = plotted(SeparatePairs(), capsys, 110)
    assert "start logit_normal (mean 0.6  std 1.6)" in text
    assert "pairing end_max" in text
    assert "25 % with t = s, at the start, and 7 % of the others" in text
    text = plotted(SeparatePairs(start=Shifted(base=Uniform(), factor=0.5)), capsys, 110)
    assert "start shifted (base uniform  factor 0.5)" in text
    for place, words in (("end", "at the end"), ("random", "at either end")):
        sampler = UniformPairs(diagonal_at=place)
        assert f"25 % with t = s, {words}" in plotted(sampler, capsys, 110)
    own = UniformPairs(diagonal_at="own", diagonal=LogitNormal())
    assert "25 % with t = s, at logit_normal (mean 0.4  std 1)" in plotted(own, capsys, 110)
