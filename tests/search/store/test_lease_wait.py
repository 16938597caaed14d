"""Waiting for a holder on another host: until it is heard, or has been silent for long enough."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meanflow_tune.search.errors import Holder, StudyInUse
from meanflow_tune.search.store.holder import LEASE_NAME, read_lease
from meanflow_tune.search.store.lease import Lease
from meanflow_tune.search.store.lease_wait import wait_for_lease

STALE = 2.0  # in place of 30 s


class Said:
    """What a waiting driver would show."""

    def __init__(self) -> None:
        self.told: list[tuple[Holder, float]] = []

    def __call__(self, holder: Holder, left: float) -> None:
        self.told.append((holder, left))

    @property
    def left(self) -> list[float]:
        return [left for _, left in self.told]


@pytest.fixture
def said() -> Said:
    return Said()


def leave(folder: Path, age: float, host: str = "elsewhere") -> None:
    """The lease of a driver on another host, with its last heartbeat `age` seconds ago."""
    Lease.acquire(folder).release()
    path = folder / LEASE_NAME
    data = json.loads(path.read_text()) | {"host": host, "pid": 4242}
    path.write_text(json.dumps(data))
    past = time.time() - age
    os.utime(path, (past, past))


@contextmanager
def beating(folder: Path, every: float) -> Iterator[None]:
    done = threading.Event()

    def beat() -> None:
        while not done.wait(every):
            os.utime(folder / LEASE_NAME)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_dead_holder_is_waited_for_with_a_countdown(tmp_path: Path, said: Said) -> None:
    leave(tmp_path, age=0.5)
    began = time.monotonic()
    with wait_for_lease(tmp_path, "s", None, said, stale_after=STALE) as lease:
        assert time.monotonic() - began >= 1.4
        assert (lease.epoch, lease.taken_over) == (2, True)
    holder, left = said.told[0]
    assert (holder.host, holder.pid) == ("elsewhere", 4242)
    assert 0.4 <= holder.age < STALE
    assert left == pytest.approx(STALE - holder.age, abs=0.01)
    assert said.left == sorted(said.left, reverse=True)


def test_a_living_holder_is_heard(tmp_path: Path, said: Said) -> None:
    leave(tmp_path, age=0.1)
    with beating(tmp_path, 0.1), pytest.raises(StudyInUse, match="4242 on host elsewhere"):
        wait_for_lease(tmp_path, "s", None, said, stale_after=STALE)
    state = read_lease(tmp_path)
    assert state is not None
    assert (state.epoch, state.pid) == (1, 4242)


def test_a_holder_whose_heartbeats_only_look_old_is_heard(tmp_path: Path, said: Said) -> None:
    """A file server that comes back after minutes, or its clock that was set forward."""
    leave(tmp_path, age=600.0)
    with beating(tmp_path, 0.1), pytest.raises(StudyInUse, match="heard just now"):
        wait_for_lease(tmp_path, "s", None, said, stale_after=STALE)


def test_a_holder_that_died_long_ago_is_watched_for_a_beat_only(tmp_path: Path, said: Said) -> None:
    leave(tmp_path, age=600.0)
    began = time.monotonic()
    wait_for_lease(tmp_path, "s", None, said, stale_after=STALE).release()
    assert time.monotonic() - began >= 0.6
    assert max(said.left) <= 0.6


def test_take_over_needs_three_missed_heartbeats(tmp_path: Path, said: Said) -> None:
    leave(tmp_path, age=0.0)
    began = time.monotonic()
    wait_for_lease(tmp_path, "s", None, said, take_over=True, stale_after=STALE).release()
    assert time.monotonic() - began >= 1.2
    assert max(said.left) <= 1.2


def test_take_over_takes_nothing_from_the_living(tmp_path: Path, said: Said) -> None:
    leave(tmp_path, age=0.0)
    with beating(tmp_path, 0.1), pytest.raises(StudyInUse, match="4242 on host elsewhere"):
        wait_for_lease(tmp_path, "s", None, said, take_over=True, stale_after=STALE)


@pytest.mark.parametrize("take_over", [False, True])
def test_a_process_of_this_host_is_not_waited_for(
    tmp_path: Path, said: Said, take_over: bool
) -> None:
    with Lease.acquire(tmp_path), pytest.raises(StudyInUse, match=f"process {os.getpid()} "):
        wait_for_lease(tmp_path, "s", None, said, take_over, STALE)
    assert said.told == []


def test_a_holder_that_ends_meanwhile_is_followed_at_once(tmp_path: Path, said: Said) -> None:
    leave(tmp_path, age=0.0)

    def released(holder: Holder, left: float) -> None:
        said(holder, left)
        path = tmp_path / LEASE_NAME
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": None}))

    with wait_for_lease(tmp_path, "s", None, released, stale_after=60.0) as lease:
        assert not lease.taken_over
    assert len(said.told) == 1


def test_a_clock_that_was_set_back_is_waited_for_by_the_own_clock(
    tmp_path: Path, said: Said
) -> None:
    leave(tmp_path, age=-86_400.0)
    wait_for_lease(tmp_path, "s", None, said, stale_after=STALE).release()
    assert 0.0 < max(said.left) <= STALE


def test_ctrl_c_ends_the_wait_and_takes_nothing(tmp_path: Path) -> None:
    leave(tmp_path, age=0.0)

    def interrupted(holder: Holder, left: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_for_lease(tmp_path, "s", None, interrupted, stale_after=STALE)
    state = read_lease(tmp_path)
    assert state is not None
    assert state.pid == 4242


def test_another_driver_that_takes_it_meanwhile_is_named(tmp_path: Path, said: Said) -> None:
    leave(tmp_path, age=0.0)

    def taken(holder: Holder, left: float) -> None:
        leave_again(tmp_path)

    with pytest.raises(StudyInUse, match="on host third"):
        wait_for_lease(tmp_path, "s", None, taken, stale_after=60.0)


def leave_again(folder: Path) -> None:
    path = folder / LEASE_NAME
    data = json.loads(path.read_text()) | {"host": "third", "epoch": 7}
    path.write_text(json.dumps(data))
