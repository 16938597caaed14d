"""Signals that come once, twice, and twice on two ways."""

import os
import signal
from collections.abc import Iterator

import pytest

from meanflow_tune.cluster import signals
from meanflow_tune.cluster.signals import Interrupt, stop_at_once


class Clock:
    """Stands still unless it is moved, however slow this machine is."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(signals, "time", made)
    signals._taken.clear()
    yield made
    signals._taken.clear()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_on_two_ways_is_one(number: signal.Signals, clock: Clock) -> None:
    """`timeout` sends SIGTERM to its child and to the group; a wrapper forwards a Ctrl-C."""
    with Interrupt() as interrupt:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert interrupt.requested
        clock.now += 2.5
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_before_and_after_a_search() -> None:
    before = signal.signal(signal.SIGTERM, stop_at_once)
    try:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # not while the last words are said
    finally:
        signal.signal(signal.SIGTERM, before)
