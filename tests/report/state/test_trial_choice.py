"""A large study is shown by its running, best, newest and broken trials; a small one whole."""

import json
from dataclasses import replace

import pytest

from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.report.state.trial_choice import BEST, NAMED, NEWEST, SCREEN, study_state
from meanflow_tune.report.state.trial_rows import read_state
from tests.support.records import build_record


def record(number: int, status: str = "completed") -> TrialRecord:
    made = build_record(number, status, Report(100, {}, {}, 1.0))  # type: ignore[arg-type]
    value = float((number * 37) % 1009)
    return replace(made, values=(value,), value=value, ended=float(number))


RECORDS = [record(n) for n in range(1000)]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_and_the_newest(direction: str) -> None:
    state = study_state(RECORDS, [direction])  # type: ignore[list-item]
    values = sorted((r.values[0] for r in RECORDS), reverse=direction == "maximize")
    shown = {row.number: row.values[0] for row in state.rows}
    assert state.count == 1000
    assert set(values[:BEST]) <= set(shown.values())
    assert set(range(1000 - NEWEST, 1000)) <= set(shown)
    assert list(shown) == sorted(shown)
    assert len(shown) <= BEST + NEWEST


def test_running_and_broken_trials_are_shown_too() -> None:
    records = list(RECORDS)
    for number in range(300, 330):
        records[number] = replace(record(number, "running"), ended=None)
    records[17] = replace(record(17, "failed"), reason="boom")
    state = study_state(records, ["minimize"])
    rows = {row.number: row for row in state.rows}
    assert rows[17].reason == "boom"
    assert 329 in rows
    assert len(rows) <= SCREEN
    assert len(state.running) == NAMED
    assert state.done == {"completed": 969, "running": 30, "failed": 1}


def test_of_several_objectives_the_front() -> None:
    two = [replace(r, values=(float(r.number), float(-r.number)), value=None) for r in RECORDS]
    two[0] = replace(two[0], values=(-1.0, -1e4))  # dominates all
    rows = {row.number for row in study_state(two, ["minimize", "minimize"]).rows}
    assert 0 in rows
    assert len(rows) == 1 + NEWEST


def test_a_small_study_is_shown_whole_and_a_large_one_on_request() -> None:
    assert len(study_state(RECORDS[:SCREEN], ["minimize"]).rows) == SCREEN
    assert len(study_state(RECORDS, ["minimize"], everything=True).rows) == 1000
    assert study_state([], ["minimize"]).rows == ()


def test_what_is_written_is_read() -> None:
    state = study_state(RECORDS, ["minimize"])
    assert read_state(json.loads(json.dumps(state.to_dict()))) == state
    for wrong in (None, [], {}, {"done": {}, "count": 3}, {"done": 3, "rows": []}):
        assert read_state(wrong) is None
