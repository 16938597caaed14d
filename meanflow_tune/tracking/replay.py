"""Replay of an outbox into a sink, in order, for as long as it takes.

The cursor moves after the effect, so a kill between the two repeats one event; sinks are
idempotent, so nothing is doubled. A server that is down delays the replay and loses nothing.
"""

import json
import threading
import time
from dataclasses import dataclass
from typing import Protocol, Self

from meanflow_tune.files import write_atomic
from meanflow_tune.tracking.outbox import Event, Outbox, parse


class Rejected(Exception):
    """Raised by a sink for an event that no retry can apply; it is stored with the reason."""


class Sink(Protocol):
    """Applies one event; applying it twice must have the effect of once."""

    def apply(self, event: Event) -> None: ...


@dataclass(frozen=True)
class ReplayStatus:
    """Numbers of events (rejected: by this process); error: of the last attempt, if it failed."""

    pending: int
    replayed: int
    rejected: int
    error: str | None
    failing_since: float | None


class Replayer:
    """A thread that applies the events of an outbox to a sink; a context manager.

    A failed try is repeated after `first_delay` seconds, doubling up to `longest_delay`. Rejected
    events go to `outbox/rejected.jsonl` and do not stop those behind them.
    """

    def __init__(
        self, outbox: Outbox, sink: Sink, first_delay: float = 0.5, longest_delay: float = 30.0
    ) -> None:
        self._outbox = outbox
        self._sink = sink
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._changed = outbox.changed
        self._cursor = outbox.folder / "cursor.json"
        self._offset, self._replayed = self._read_cursor()
        self._rejected = 0
        self._error: str | None = None
        self._failing_since: float | None = None
        self._stopping = False
        self._hurry = False
        # A daemon, since a request to a dead server must not hold the end of the process.
        self._thread = threading.Thread(target=self._run, name="outbox-replay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def drain(self, timeout: float) -> int:
        """Try at once, wait at most `timeout` seconds; the number of events still pending."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._pending() == 0, timeout)
            return self._pending()

    def status(self) -> ReplayStatus:
        """Where the replay stands."""
        with self._changed:
            return ReplayStatus(
                self._pending(), self._replayed, self._rejected, self._error, self._failing_since
            )

    def close(self, timeout: float = 5.0) -> None:
        """Stop after the event in progress. What is pending is replayed by the next process."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _pending(self) -> int:
        return self._outbox.written - self._replayed

    def _run(self) -> None:
        delay = self._first_delay
        while not self._stopping:
            try:
                self._next()
                delay = self._first_delay
            except Exception as error:
                hurried = self._wait_after(error, delay)
                delay = self._first_delay if hurried else min(2 * delay, self._longest_delay)

    def _wait_after(self, error: Exception, delay: float) -> bool:
        """Note the failure and wait; True where `drain` or `close` cut it short."""
        with self._changed:
            # A database's error continues with the statement and its parameters.
            first = (str(error).strip().splitlines() or [""])[0]
            self._error = f"{type(error).__name__}: {first}"
            self._failing_since = self._failing_since or time.time()
            hurried = self._changed.wait_for(lambda: self._stopping or self._hurry, delay)
            self._hurry = False
            return hurried

    def _next(self) -> None:
        """Apply the next event, once there is one, and move the cursor."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._pending() > 0)
            event = None if self._stopping else self._outbox.read(self._offset, self._replayed)
        if event is None:
            return
        rejected = 0
        self._outbox.fence()
        try:
            if not event.kind:
                raise Rejected("this line of the outbox is not an event")
            self._sink.apply(event)
        except Rejected as error:
            rejected = 1
            self._set_aside(event, str(error))
        self._outbox.fence()
        write_atomic(self._cursor, json.dumps({"offset": event.end}))
        with self._changed:
            self._offset = event.end
            self._replayed += 1
            self._rejected += rejected
            self._error = self._failing_since = None
            self._changed.notify_all()

    def _set_aside(self, event: Event, reason: str) -> None:
        entry = {"seq": event.seq, "kind": event.kind, "reason": reason, "payload": event.payload}
        with (self._outbox.folder / "rejected.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _read_cursor(self) -> tuple[int, int]:
        """Byte offset and count of what was replayed; (0, 0), all again, where it is damaged."""
        try:
            offset = parse(self._cursor.read_bytes())["offset"]
        except (FileNotFoundError, KeyError):
            return 0, 0
        count = self._outbox.events_before(offset) if isinstance(offset, int) else None
        return (0, 0) if count is None else (offset, count)
