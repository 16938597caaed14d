"""Faults in one line each, and how many there were."""

import time
from typing import Any

import pytest

from meanflow_tune.report.state.fault_lines import fault_line, fault_lines, fault_summary


def fault(number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "time": time.time(),
        "slot": f"slot-{number}",
        "host": "node7 (10.0.0.7)",
        "trial": "trial 7",
        "lost": 1024,
        "cause": "the process of rank 1 died",
        "action": "the slot restarts at once; the trial restarts from 4,096 images on the next free "
        "slot in 1 s (attempt 2 of 4)",
    } | more


LINE = (
    "slot-0 on node7 (10.0.0.7): the process of rank 1 died; trial 7 lost 1,024 images; the slot "
    "restarts at once; the trial restarts from 4,096 images on the next free slot in 1 s (attempt 2 of 4)"
)


def test_a_fault_says_where_what_was_lost_and_what_is_done() -> None:
    assert fault_line(fault()) == LINE
    assert fault_line(fault(lost=1)).count("lost 1 image;") == 1
    assert "trial 7 lost nothing; " in fault_line(fault(lost=0))
    short = fault(trial="", host="", action="", cause="no free CPU")
    assert fault_line(short) == "slot-0: no free CPU"


@pytest.mark.parametrize(
    ("total", "kept", "everything", "head", "shown"),
    [
        (1, 1, False, "1 fault:", 1),
        (30, 20, False, "30 faults, the last 5:", 5),
        (30, 20, True, "30 faults, the last 20:", 20),
        (20, 20, True, "20 faults:", 20),
    ],
)
def test_a_status_shows_the_last_ones(
    total: int, kept: int, everything: bool, head: str, shown: int
) -> None:
    state = {"total": total, "last": [fault(k) for k in range(kept)]}
    lines = [line.plain for line in fault_lines(state, everything)]
    assert lines[0] == head
    assert len(lines) == 1 + shown
    assert f" slot-{kept - 1} on node7" in lines[-1], "the newest at the end"


def test_a_fault_of_another_day_has_its_date() -> None:
    (_, line) = fault_lines({"total": 1, "last": [fault(time=86_400.0 * 366)]})
    assert line.plain.startswith("  1971-01-0")


@pytest.mark.parametrize("state", [None, [], {}, {"total": 3}, {"total": "x", "last": [fault()]}])
def test_no_faults_no_lines(state: object) -> None:
    assert fault_lines(state) == []


def test_the_summary_names_the_last_ones() -> None:
    assert fault_summary(0, [], "search.log") == ""
    assert fault_summary(1, [fault(2)], "search.log") == (
        "1 fault: slot-2 on node7 (10.0.0.7) (the process of rank 1 died); see search.log"
    )
    found = fault_summary(9, [fault(k) for k in range(5)], "search.log")
    assert found.startswith("9 faults: the last ones slot-2 on ")
    assert found.count("rank 1") == 3
