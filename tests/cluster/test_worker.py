"""What a rank makes of exceptions and of SIGTERM, without Ray running."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from meanflow_tune.cluster import signals, worker
from meanflow_tune.cluster.worker import outcome_of


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_a_bug_is_told_with_its_place_whatever_caused_it() -> None:
    end = outcome_of(raised(KeyError("x"), cause=raised(ValueError("y"))))
    assert end is not None
    assert (end.status, end.deterministic) == ("failed", True)
    assert end.reason.startswith("KeyError: 'x' (File ")
    assert "in raised" in end.reason
    assert "\n" not in end.reason


def test_what_the_machines_did_has_no_end() -> None:
    assert outcome_of(raised(ConnectionResetError("gone"))) is None


def test_lack_of_memory_is_no_failure_also_where_a_rank_of_others_says_it() -> None:
    """A RuntimeError like those that peers see, but with a cause of its own."""
    text = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes (socket 3)"
    end = outcome_of(raised(RuntimeError(text)))
    assert end is not None
    assert end.status == "out_of_memory"
    assert 0.0 < end.violation < 1e-6, "of all memory of this host"


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Listening, and what the handler before would have done."""
    done: list[str] = []
    monkeypatch.setattr(signals, "_given", threading.Event())
    monkeypatch.setattr(signals, "_busy", threading.Event())
    original = signal.signal(signal.SIGTERM, lambda *_: done.append("ended"))
    try:
        signals.listen_for_notice()
        yield done
    finally:
        signal.signal(signal.SIGTERM, original)


def test_a_rank_with_a_job_saves_it_first_and_ends_at_the_second_notice(heard: list[str]) -> None:
    signals.set_busy(True)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.notice_given()
    assert heard == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == ["ended"]


def test_a_rank_without_a_job_ends_at_once(heard: list[str]) -> None:
    signals.set_busy(True)
    signals.set_busy(False)
    os.kill(os.getpid(), signal.SIGTERM)
    assert not signals.notice_given()
    assert heard == ["ended"]


def test_progress_goes_with_the_next_heartbeat_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Heard:
        """A broker whose slot trains between its heartbeats, and that ends it after the fifth."""

        def call_within(self, seconds: float, *arguments: Any) -> dict[str, Any]:
            told.append(arguments[-1])
            if len(told) % 2:
                for images in (0, len(told)):
                    worker.JobReporter(connection, 7, 0, 1).tick({"images": images})
            worker.JobReporter(connection, 7, 1, 1).tick({"images": 99})  # of rank 1
            return {"stopping": 0, "stopped_job": None, "die": len(told) == 5}

    monkeypatch.setattr(worker, "os", SimpleNamespace(_exit=sys.exit))
    monkeypatch.setattr(worker, "threading", Mock())  # no thread: the loop runs here
    monkeypatch.setattr(signals, "wait_for_notice", lambda seconds: None)
    use: Any = SimpleNamespace(latest={})
    connection = worker.Connection(cast(Any, Heard()), "slot", "incarnation", 0, use)
    with pytest.raises(SystemExit):
        connection._beat()
    assert told == [None, (7, {"images": 1}), None, (7, {"images": 3}), None]


def test_a_fault_that_all_ranks_see_is_one() -> None:
    connection = Mock()
    for rank in range(3):
        worker.JobReporter(connection, 7, rank, 1).fault(
            "s3://b does not answer", "the trial waits"
        )
    (call,) = connection.call.call_args_list
    assert call.args[1:] == (7, "s3://b does not answer", "the trial waits")


@pytest.mark.slow
def test_a_rank_imports_nothing_that_only_the_driver_needs() -> None:
    """Each takes a second or more per rank; pandas is not ours, Ray Train imports it."""
    code = """
import sys
import ray.train.torch
import meanflow_tune.cluster.worker
import meanflow_tune.training.job
import meanflow_tune.remote.remote_jobs
heavy = {"matplotlib", "mlflow", "optuna", "PIL", "ray.tune", "scipy", "sklearn", "torch._dynamo"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
