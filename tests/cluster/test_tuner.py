"""What Tune does with its own files, without a cluster."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.tune.result_grid import ResultGrid

from meanflow_tune.cluster import tuner
from meanflow_tune.cluster.errors import BrokerLost
from meanflow_tune.records import Job


def test_tune_unpickles_no_error_of_a_trial_from_its_files() -> None:
    """On a full disk such a file is empty, and `Tuner.fit` ended a stopped search with an EOFError."""

    def torn() -> None:
        raise EOFError("Ran out of input")

    trial = SimpleNamespace(status="ERROR", get_pickled_error=torn)
    before = ResultGrid.__dict__["_populate_exception"]
    with tuner._without_stored_errors():
        assert ResultGrid._populate_exception(trial) is None
    assert ResultGrid.__dict__["_populate_exception"] is before


@pytest.mark.parametrize("stopping", [False, True])
def test_a_broker_that_has_ended_is_told_without_a_message_of_rpc(stopping: bool) -> None:
    def gone(*_: object) -> None:
        raise ray.exceptions.ActorUnavailableError("rpc_code: 14", None)

    unused: Any = None
    broker: Any = SimpleNamespace(call_within=gone, call=gone)
    interrupt: Any = SimpleNamespace(requested=stopping)
    bridge = tuner._Bridge(unused, broker, unused, interrupt)
    with pytest.raises(BrokerLost) as caught:
        bridge.poll()
    said = str(caught.value)
    assert "that hands out trials, has ended (ActorUnavailableError); nothing was lost" in said
    assert "rpc" not in said


def test_a_job_whose_relay_tune_has_given_up_gets_another() -> None:
    jobs = [Job("study", number, {}, "", 0, 1) for number in range(2)]
    ended: list[tuple[int, str]] = []
    director: Any = SimpleNamespace(
        next_job=lambda: jobs.pop(0) if jobs else None,
        exhausted=lambda: not jobs,
        on_end=lambda number, outcome: ended.append((number, outcome.status)),
        on_tick=lambda snapshot: None,
        to_stop=list,
    )
    broker: Any = SimpleNamespace(call_within=lambda *_: {"faults": []}, call=lambda *_: None)
    slots: Any = SimpleNamespace(count=1, tick=lambda snapshot: None)
    stop: Any = SimpleNamespace(requested=False)
    bridge = tuner._Bridge(director, broker, slots, stop)
    first = bridge.suggest("a")
    assert bridge.suggest("b") is None  # one slot
    bridge.trial_complete("a")
    assert bridge.suggest("b") is first
    assert bridge.suggest("c") is None
    stop.requested = True
    bridge.trial_complete("b")
    assert bridge.suggest("d") is first  # which still has to reach its safe point
    bridge.trial_complete("d")
    bridge.last_poll()
    assert ended == [(0, "running")]
