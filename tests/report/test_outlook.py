"""Where a search stands and when it ends, from stored trials whose times are known."""

import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from meanflow_tune.records import Report, Status, TrialRecord
from meanflow_tune.report.live import View
from meanflow_tune.report.outlook import Outlook, ProgressTracker, end_of, look_ahead
from meanflow_tune.report.status import show_outlook
from meanflow_tune.report.text import about
from meanflow_tune.search.analysis.forecast import Ladder, Pace, Work
from meanflow_tune.search.objectives import Objectives
from tests.support.records import build_record
from tests.support.rungs import make_rungs

IMAGES = (100, 400)
ONE, TWO = Objectives.parse("gap@1"), Objectives.parse("gap@1,cost")
WHOLE = Ladder(IMAGES, None, 4)


def record(
    number: int,
    status: Status,
    at: int,
    values: tuple[float, ...] = (),
    baseline: str | None = None,
) -> TrialRecord:
    """10 ms an image, 1 s an evaluation, no start."""
    reports = [
        Report(images, {}, {"wall_seconds": 0.01 * images}, 0.01 * images + index + 1.0)
        for index, images in enumerate(i for i in IMAGES if i <= at)
    ]
    value = values[0] if len(values) == 1 else None
    fields = {"value": value, "values": values, "baseline": baseline, "started": 0.0}
    return build_record(number, status, *reports, **fields)


def test_the_time_left_by_hand() -> None:
    """A trial takes 4 + 2 s; one is half through its last rung, two are to come, on one slot."""
    records = [record(0, "completed", 400), record(1, "running", 100)]
    found = look_ahead(records, WHOLE, ONE, 1, {1: 250}, now=0.0)
    assert found.seconds_left == pytest.approx(1.5 + 1 + 2 * 6)
    assert found.forecast == f"about 14 s left (end {end_of(14.5, 0.0)})"
    more = look_ahead(records, WHOLE, ONE, 2, {1: 250}, afterwards=Work(800, 2, 2))
    assert more.seconds_left == pytest.approx(7.25 + 5.0)
    assert more.forecast.endswith("; including 5.0 s of confirmation")


def test_a_time_budget_ends_the_search_and_not_its_confirmation() -> None:
    records = [record(0, "completed", 400), record(1, "running", 100)]
    found = look_ahead(records, WHOLE, ONE, 1, {}, budget_left=3.0, afterwards=Work(400, 1, 1))
    assert found.seconds_left == pytest.approx(3.0 + 5.0)
    assert "the search alone would take 16 s, but --time-budget ends it earlier" in found.forecast
    assert "budget" not in look_ahead(records, WHOLE, ONE, 1, {}, budget_left=60.0).forecast


def test_before_the_first_rung_the_pace_is_that_of_the_running_trials() -> None:
    records = [record(0, "running", 0)]
    assert look_ahead(records, WHOLE, ONE, 1, {}).seconds_left is None
    found = look_ahead(records, WHOLE, ONE, 1, {0: 100}, ticked=Pace(0.02))
    assert found.seconds_left == pytest.approx(0.02 * (300 + 3 * 400))


def test_what_stopped_is_told_for_each_rung() -> None:
    ladder = Ladder(IMAGES, make_rungs(reduction=2.0), 4)
    records = [record(0, "completed", 400), record(1, "paused", 100), record(2, "pruned", 100)]
    assert look_ahead(records, ladder, ONE, 1, {}).rungs == "stopped 2 of 3 at 100 images"
    assert look_ahead(records, WHOLE, ONE, 1, {}).rungs == ""


def test_the_front_its_volume_and_its_picture() -> None:
    """(1, 4) and (2, 2) within (4, 5): 3 · 1 + 2 · 2 = 7; the baseline itself adds nothing."""
    records = [
        record(0, "completed", 400, (4.0, 5.0), "base"),
        record(1, "completed", 400, (1.0, 4.0)),
        record(2, "completed", 400, (2.0, 2.0)),
        record(3, "pruned", 100, (0.0, 0.0)),
    ]
    found = look_ahead(records, WHOLE, TWO, 1, {})
    assert found.front == (
        "2 of 3 completed trials on the front, hypervolume 7 up to (4, 5), the baselines' worst values"
    )
    assert sum(line.count("●") for line in found.picture) == 2
    assert sum(line.count("·") for line in found.picture) == 1
    assert "cost, 5 at the top, 2 at the bottom" in found.picture[0]
    assert (
        look_ahead(records[1:], WHOLE, TWO, 1, {}).front == "2 of 2 completed trials on the front"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3.21, "3.2 s"),
        (9.96, "10 s"),
        (119, "119 s"),
        (120, "2 min"),
        (3599, "1 h"),
        (4800, "1 h 20 min"),
        (86_399, "1 d"),
        (2 * 86_400 + 3 * 3600, "2 d 3 h"),
    ],
)
def test_lengths_of_time_for_a_person(seconds: float, text: str) -> None:
    assert about(seconds) == text


def test_an_end_on_another_day_names_it() -> None:
    noon = time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1))
    assert end_of(3600, noon) == "13:00"
    assert end_of(90_000, noon) == "Wed 13:00"


def test_a_line_when_trials_end_and_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    view = View()
    view.state = {"total": 4, "done": {"running": 2}, "forecast": "about 1 h left (end 14:35)"}
    lines = []
    for now, done in ((1, {"running": 2}), (2, {"completed": 1, "running": 1, "paused": 2})):
        clock[0] = now
        view.state["done"] = done
        view.beat()
        lines.append(capsys.readouterr().out)
    for now in (30.0, 62.1, 63.0):
        clock[0] = now
        view.beat()
        lines.append(capsys.readouterr().out)
    assert lines[0] == "" == lines[2] == lines[4]
    text = "1/4 trials, 1 running, 2 paused; about 1 h left (end 14:35)\n"
    assert lines[1] == f"[   2.0 s] {text}"
    assert lines[3] == f"[  62.1 s] {text}"


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    view = View(quiet=True)
    view.state = {"total": 4, "done": {"completed": 1}}
    view.beat()
    assert capsys.readouterr().out == ""


def test_the_outlook_of_a_status_file_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    outlook = Outlook(60.0, "about 1 min left (end 14:35)", "stopped 1 of 2", "2 of 3", ("│ ●",))
    show_outlook(Console(width=80), outlook.to_dict())
    assert capsys.readouterr().out.splitlines() == [
        "about 1 min left (end 14:35)",
        "stopped 1 of 2",
        "2 of 3",
        "│ ●",
    ]


def test_clocks_measure_the_pace_of_what_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """From ticks: 200 images in 4 s of one trial, 100 in 3 s of another; waiting does not count."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress_tracker = ProgressTracker()
    train: dict[str, Any] = {"phase": "train", "of": 400}
    for now, first, second in (
        (0.0, {"phase": "waiting"}, train | {"images": 0}),
        (3.0, train | {"images": 100}, train | {"images": 100}),
        (7.0, train | {"images": 300}, {"phase": "evaluating", "images": 100}),
    ):
        clock[0] = now
        progress_tracker.heard(0, first)
        progress_tracker.heard(1, second)
    assert progress_tracker.images == {0: 300, 1: 100}
    assert progress_tracker.pace == Pace((4.0 + 3.0) / (200 + 100))
    progress_tracker.ended(0)
    assert progress_tracker.pace == Pace(3.0 / 100)
    progress_tracker.ended(1)
    assert progress_tracker.pace is None


def test_status_files_of_earlier_revisions_have_no_outlook(tmp_path: Path) -> None:
    console = Console(width=80, file=(tmp_path / "out").open("w"))
    show_outlook(console, {"study": "s", "running": []})
    console.file.flush()
    assert (tmp_path / "out").read_text() == ""
