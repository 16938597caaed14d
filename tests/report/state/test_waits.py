"""What waits for what, in words."""

from typing import Any

from meanflow_tune.records import NO_ANSWER, NO_TEACHER, TEACHER
from meanflow_tune.report.state.waits import named, waits
from meanflow_tune.training.disk_wait import NO_SPACE


def slot(state: str, detail: str = "", seconds: float = 180.0, number: int | None = None) -> Any:
    return {"state": state, "detail": detail, "state_s": seconds, "number": number}


def test_who_waits_for_what() -> None:
    full = {"phase": NO_SPACE, "folder": "/data", "free": "0.0 MB free"}
    rows = {
        1: {"phase": TEACHER},
        3: {"phase": NO_TEACHER},
        4: {"phase": NO_TEACHER},
        5: full,
        6: {"phase": "train"},
        11: {"phase": NO_ANSWER},
    }
    snapshot = {
        "queued": [7, 8, 9, 10],
        "retries": {8: {"due_s": 0.0, "cause": "x"}, 7: {"due_s": 2.0, "cause": "rank 1: killed"}},
        "slots": {
            "slot-0": slot("running", number=1),
            "slot-1": slot("ready"),
            "slot-2": slot("waiting", "1 CPU on any host", 40.0),
            "slot-3": slot("waiting", "1 CPU on any host"),
            "slot-4": slot("restarting", "no free CPU; in 2 s", 1.0),
            "slot-5": slot("starting"),
            "slot-6": slot("ended", "no host is left for it"),
        },
    }
    assert waits(rows, snapshot, "trial") == [
        "trial 7 for its retry in 2.0 s (rank 1: killed)",
        "trial 8 for its retry by the next free slot (x)",
        "trials 9 and 10 for a free slot",
        "trials 3 and 4 for the teacher that trial 1 trains",
        "trial 11 for the storage, which does not answer",
        "trial 5 for disk space in /data (0.0 MB free)",
        "slots 2 and 3 for 1 CPU on any host (for 3 min)",
        "slot 4 to restart: no free CPU; in 2 s (for 1.0 s)",
        "slot 5 to start (for 3 min)",
    ]


def test_nothing_waits() -> None:
    assert waits({}, {}, "trial") == []
    assert waits({1: {"phase": "train"}}, {"queued": [], "slots": {}}, "trial") == []


def test_another_slots_teacher_is_not_named_where_it_is_unknown() -> None:
    assert waits({3: {"phase": NO_TEACHER}}, {}, "trial") == ["trial 3 for the teacher"]


def test_many_are_counted() -> None:
    assert named("trial", range(1, 4)) == "trials 1, 2 and 3"
    assert named("trial", range(20)) == "trials 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"
