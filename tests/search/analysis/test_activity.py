"""How often a factor was active among stopped trials, rung by rung."""

from typing import Any

from meanflow_tune.records import Report, Status, TrialRecord
from meanflow_tune.search.analysis.activity import Activity, activity
from tests.support.records import build_record


def at(number: int, has: bool, rungs: int, status: Status, **fields: Any) -> TrialRecord:
    reports = [Report(25 * (k + 1), {}, {}, 0.0) for k in range(rungs)]
    config = {"has": has, "ramp": fields.pop("ramp", 0.0), "budget": {"images": 100}}
    return build_record(number, status, *reports, config=config, **fields)


def test_each_rung_counts_who_stopped_there_and_who_went_on() -> None:
    records = [
        at(0, False, 4, "completed", baseline="mid"),
        at(1, True, 1, "pruned", ramp=0.5),
        at(2, False, 1, "paused"),
        at(3, True, 2, "pruned", ramp=0.5),
        at(4, True, 4, "completed"),
        at(5, False, 4, "completed"),
        at(6, True, 1, "diverged"),
        at(7, True, 0, "failed"),
    ]
    found = activity(records, lambda config: config["has"], lambda config: config["ramp"])
    assert found == [
        Activity(25, stopped=2, stopped_with=1, passed=3, passed_with=2, ramping=1),
        Activity(50, stopped=1, stopped_with=1, passed=2, passed_with=1, ramping=0),
    ]


def test_without_stops_there_is_nothing_to_tell() -> None:
    assert activity([at(0, True, 4, "completed")], lambda config: True, lambda config: 0.0) == []
