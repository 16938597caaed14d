import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.records import Job, Outcome
from meanflow_tune.tracking.events import Tracker
from meanflow_tune.tracking.outbox import Outbox
from tests.support.stories import STUDY, make_record, make_report, small_config


def told(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    lines = (folder / "outbox" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [(event["kind"], event["payload"]) for event in events]


def test_catching_up_tells_what_is_missing_and_nothing_twice(tmp_path: Path) -> None:
    first, second = make_report(32, 0.5), make_report(64, 0.25)
    tracker = Tracker(Outbox(tmp_path), STUDY)
    tracker.trial_started(Job(STUDY, 0, small_config(0), "/nowhere", 0, 1), make_record(0))
    tracker.reported(make_record(0, reports=(first,)), first)
    tracker = Tracker(Outbox(tmp_path), STUDY)
    done = make_record(0, "completed", (first, second))
    for _ in range(2):
        tracker.catch_up([done, make_record(1)], lambda record: tmp_path / "model")
    kinds = [(kind, payload["trial"]) for kind, payload in told(tmp_path)]
    assert kinds == [
        ("trial_started", "0"),
        ("reported", "0"),
        ("reported", "0"),
        ("trial_ended", "0"),
        ("model_exported", "0"),
        ("trial_started", "1"),
    ]
    assert told(tmp_path)[4][1]["model"] == str(tmp_path / "model")


def test_rungs_count_from_one_and_the_value_belongs_to_the_last(tmp_path: Path) -> None:
    reports = make_report(32, 0.5), make_report(64, 0.25)
    tracker = Tracker(Outbox(tmp_path), STUDY)
    for report in reports:
        tracker.reported(make_record(0, reports=reports), report)
    seen = [(p["rung"], p["value"], p["decision"]) for _, p in told(tmp_path)]
    assert seen == [(1, 0.5, "it goes on with 0.5"), (2, 0.25, "it goes on with 0.25")]


def test_a_trial_made_under_accepted_changes_says_so(tmp_path: Path) -> None:
    tracker = Tracker(Outbox(tmp_path), STUDY)
    tracker.catch_up([make_record(0), replace(make_record(1), terms=2)])
    assert [payload["terms"] for _, payload in told(tmp_path)] == [0, 2]


def test_repeats_and_pauses_are_told_apart_from_rungs(tmp_path: Path) -> None:
    own, repeat = make_report(64, 0.5), replace(make_report(64, 0.4), repeat=1)
    tracker = Tracker(Outbox(tmp_path), STUDY)
    done = replace(make_record(0, "completed", (own,)), repeats=(repeat,))
    paused = make_record(1, "paused", (make_report(32, 0.9),))
    for _ in range(2):
        tracker.catch_up([done, paused])
    kinds = [(kind, payload["trial"]) for kind, payload in told(tmp_path)]
    assert kinds == [
        ("trial_started", "0"),
        ("reported", "0"),
        ("repeated", "0"),
        ("trial_ended", "0"),
        ("trial_started", "1"),
        ("reported", "1"),
        ("trial_paused", "1"),
    ]


def test_a_sibling_study_does_not_mix_with_the_search(tmp_path: Path) -> None:
    tracker = Tracker(Outbox(tmp_path), STUDY)
    for study in (STUDY, f"{STUDY}/confirm"):
        tracker.catch_up([make_record(3, study=study)])
    assert [payload["trial"] for _, payload in told(tmp_path)] == ["3", "confirm/3"]


def test_an_end_that_is_none_is_refused(tmp_path: Path) -> None:
    tracker = Tracker(Outbox(tmp_path), STUDY)
    with pytest.raises(ValueError, match="has not ended"):
        tracker.ended(make_record(0), Outcome("running"))
    with pytest.raises(ValueError, match="got 'done'"):
        tracker.search_ended({"status": "done"})
    assert told(tmp_path) == []
