"""Lines of running trials: as wide as there is room, and no number is ever cut."""

import pytest
from rich.cells import cell_len

from meanflow_tune.report.running import running_lines

ROWS = [
    {
        "name": "trial 12",
        "what": "meanflow_cifar10_lr_mid",
        "phase": "train",
        "images": 64_000,
        "of": 128_000,
        "last": "0.0933577",
    },
    {"name": "trial 13", "what": "proposed", "phase": "evaluate", "images": 128_000, "of": 128_000},
    {"name": "trial 14", "what": "proposed", "phase": "waiting"},
]


def texts(width: int, most: int | None = None) -> list[str]:
    return [line.plain for line in running_lines(ROWS, width, most)]


@pytest.mark.parametrize("width", [120, 100, 80, 70, 60, 50])
def test_lines_fit_and_numbers_are_whole(width: int) -> None:
    lines = texts(width)
    assert len(lines) == 1 + len(ROWS)
    assert all(cell_len(line) <= width for line in lines)
    for word in ("trial 12", "64,000 / 128,000", "0.0933577"):
        assert word in lines[1]


def test_what_is_least_missed_goes_first() -> None:
    wide, usual, narrow = texts(120), texts(80), texts(50)
    assert "█" * 12 + "░" * 12 in wide[1]
    assert "meanflow_cifar10_lr_mid" in wide[1]
    assert "train" in usual[1]
    assert "meanflow_" in usual[1]
    assert "meanflow" not in narrow[1]


def test_a_very_narrow_terminal_shows_a_list() -> None:
    assert texts(24)[:3] == ["trial 12 train", "  images 64,000 / 128,000", "  last rung 0.0933577"]


def test_more_trials_than_lines_are_counted() -> None:
    assert texts(80, most=2)[-1] == "and 2 more"
    assert len(texts(80, most=3)) == 4
    assert running_lines([], 80) == []


def test_a_row_from_outside_is_taken_as_it_is() -> None:
    row = {"name": "trial 1", "what": "[/x]\n\x1b[2J模", "phase": 3, "images": "many", "of": -1}
    (_, line) = running_lines([row], 80)
    assert line.plain.split() == ["trial", "1", "[/x]", "模", "3"]
