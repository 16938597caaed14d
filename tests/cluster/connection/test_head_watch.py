"""What is made of a head that is silent, comes back, or is another one."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from meanflow_tune.cluster.connection import head_watch
from meanflow_tune.cluster.connection.head_watch import HeadWatch, WatchedStop
from meanflow_tune.cluster.errors import ClusterError, ClusterLost, TokenRefused
from meanflow_tune.cluster.signals import Interrupt

pytestmark = pytest.mark.timeout(20)


class Head:
    """Answers with `cluster`, or raises it."""

    def __init__(self) -> None:
        self.cluster: bytes | Exception = b"one"

    def ask(self) -> bytes:
        if isinstance(self.cluster, Exception):
            raise self.cluster
        return self.cluster


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Head:
    monkeypatch.setattr(head_watch, "PERIOD_SECONDS", 0.02)
    monkeypatch.setattr(head_watch, "STUCK_SECONDS", 0.2)
    return Head()


@pytest.fixture
def patient(head: Head) -> Iterator[HeadWatch]:
    """Never gives a head up, however slow this machine is."""
    made = HeadWatch(head.ask, b"one", "h:1", lost_seconds=600.0).start()
    yield made
    made.stop()


@pytest.fixture
def watch(head: Head) -> Iterator[HeadWatch]:
    made = HeadWatch(head.ask, b"one", "h:1", lost_seconds=0.5).start()
    yield made
    made.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


SILENT = ClusterError("refused")


def test_one_that_answers_is_no_hindrance(head: Head, watch: HeadWatch) -> None:
    time.sleep(0.1)
    watch.check()
    assert not watch.lost
    with pytest.raises(ValueError, match="of another kind"), watch.explaining():
        raise ValueError("of another kind")


def test_one_that_comes_back_in_time_is_waited_for(head: Head, patient: HeadWatch) -> None:
    watch = patient
    head.cluster = SILENT
    wait_for(lambda: watch.silence > 0.1)
    threading.Timer(0.1, lambda: setattr(head, "cluster", b"one")).start()
    watch.check()
    assert not watch.lost


@pytest.mark.parametrize("error", [SILENT, OSError("no certificate"), ValueError("of a library")])
def test_one_that_stays_silent_is_lost(head: Head, watch: HeadWatch, error: Exception) -> None:
    """Whatever the question raises: without its thread, the watch would wait for ever."""
    head.cluster = error
    wait_for(lambda: watch.silence > 0.1)
    with pytest.raises(ClusterLost, match="h:1 is lost: its head has not answered for") as caught:
        watch.check()
    assert "\n" not in str(caught.value)
    with pytest.raises(ClusterLost):  # and stays so
        watch.check()


@pytest.mark.parametrize(
    "found, cause", [(b"two", "was restarted"), (TokenRefused("x"), "another token")]
)
def test_another_head_at_the_address_is_a_loss_at_once(
    head: Head, watch: HeadWatch, found: bytes | Exception, cause: str
) -> None:
    head.cluster = found
    wait_for(lambda: watch.lost)
    with pytest.raises(ClusterLost, match=cause):
        watch.check()


def test_an_error_of_ray_is_explained_by_the_loss(head: Head, watch: HeadWatch) -> None:
    """It may come before the watch has noticed anything, and as any class."""

    def call_ray() -> None:
        head.cluster = SILENT
        raise RuntimeError("WrongClusterID")

    with pytest.raises(ClusterLost) as caught, watch.explaining():
        call_ray()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_stop_asks_the_head_first_but_does_not_wait_for_it(
    head: Head, patient: HeadWatch
) -> None:
    interrupt = Interrupt()
    stop = WatchedStop(interrupt, patient)
    assert not stop.requested
    interrupt.request()
    head.cluster = SILENT
    wait_for(lambda: patient.silence > 0.1)
    assert stop.requested


def test_the_process_is_ended_if_the_main_thread_is_stuck(head: Head) -> None:
    told: list[ClusterLost] = []
    stuck = HeadWatch(head.ask, b"one", "h:1", 0.1, told.append).start()
    head.cluster = SILENT
    wait_for(lambda: bool(told))
    assert "h:1 is lost" in str(told[0])
    stuck.stop()

    noticed = HeadWatch(head.ask, b"one", "h:1", 0.1, told.append).start()
    noticed.notice()
    wait_for(lambda: noticed.lost)
    time.sleep(0.4)
    assert len(told) == 1
    # Alive, so that nobody shuts Ray down.
    assert noticed.thread.is_alive()
    noticed.stop()
