"""Replay of an outbox into a sink, in order, for as long as it takes.

The cursor moves after the effect, so a kill between the two repeats one event; sinks are
idempotent, so nothing is doubled. A server that is down delays the replay and loses nothing. A sink that
can say what it lacks (an `Auditor`) gets that again, at the start and when asked to: a server can come
back with an older database, or with none.
"""

import json
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from meanflow_tune.files import write_atomic
from meanflow_tune.tracking.outbox import Event, Outbox, parse
from meanflow_tune.tracking.rejections import Rejections
from meanflow_tune.urls import hide_password


class Rejected(Exception):
    """Raised by a sink for an event that no retry can apply now; it is kept with the reason.

    remedy: what a user can do about it.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


class Sink(Protocol):
    """Applies one event; applying it twice must have the effect of once."""

    def apply(self, event: Event) -> None: ...


@dataclass(frozen=True)
class Audit:
    """What a sink lacks: the events to apply once more, in order, and the finding in words, if any."""

    events: list[Event]
    note: str = ""


@runtime_checkable
class Auditor(Protocol):
    """A sink that can compare what it holds with the events that were applied to it.

    target: names where it writes; each target has a cursor of its own. refused: numbers of the events
    that it rejected.
    """

    target: str

    def audit(self, events: Iterable[Event], refused: Collection[int]) -> Audit: ...


@dataclass(frozen=True)
class ReplayStatus:
    """Numbers of events (rejected: by all drivers, and not taken since; repairs: to be sent once more).

    auditing: an audit is due; error: of the last attempt, if it failed; failures: of all attempts.
    """

    pending: int
    replayed: int
    rejected: int
    error: str | None
    failing_since: float | None
    repairs: int = 0
    auditing: bool = False
    failures: int = 0


class Replayer:
    """A thread that applies the events of an outbox to a sink; a context manager.

    A failed try is repeated after `first_delay` seconds, doubling up to `longest_delay`. Rejected
    events go to `outbox/rejected.jsonl` and do not stop those behind them. say: gets a line about each,
    and about what an audit finds.
    """

    def __init__(
        self,
        outbox: Outbox,
        sink: Sink,
        first_delay: float = 0.5,
        longest_delay: float = 30.0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._outbox = outbox
        self._sink = sink
        self._auditor = sink if isinstance(sink, Auditor) else None
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._say = say
        self._changed = outbox.changed
        self._cursor = outbox.folder / "cursor.json"
        self._target = "" if self._auditor is None else self._auditor.target
        self._earlier: dict[str, int] = {}  # other targets -> their cursors
        self._offset, self._replayed = self._read_cursor()
        self.rejections = Rejections(outbox.folder, say)
        self._auditing = self._auditor is not None and self._replayed > 0
        self._repairs: list[Event] = []
        self._error: str | None = None
        self._failing_since: float | None = None
        self._failures = 0
        self._stopping = False
        self._hurry = False
        # A daemon, since a request to a dead server must not hold the end of the process.
        self._thread = threading.Thread(target=self._run, name="outbox-replay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def audit(self) -> None:
        """Compare the sink with what was applied to it, and apply what it lacks; `drain` waits for it."""
        with self._changed:
            self._auditing = self._auditor is not None
            self._changed.notify_all()

    def drain(self, timeout: float) -> int:
        """Try at once, wait at most `timeout` seconds; the number of events still to be applied.

        An audit that could not be made counts as one.
        """
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._left() == 0, timeout)
            return self._left()

    def status(self) -> ReplayStatus:
        """Where the replay stands."""
        with self._changed:
            return ReplayStatus(
                self._pending(),
                self._replayed,
                len(self.rejections.standing),
                self._error,
                self._failing_since,
                len(self._repairs),
                self._auditing,
                self._failures,
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

    def _left(self) -> int:
        return self._pending() + len(self._repairs) or int(self._auditing)

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
            self._error = hide_password(f"{type(error).__name__}: {first}")
            self._failing_since = self._failing_since or time.time()
            self._failures += 1
            hurried = self._changed.wait_for(lambda: self._stopping or self._hurry, delay)
            self._hurry = False
            return hurried

    def _next(self) -> None:
        """Apply the next event; without one, audit where that is due."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._left() > 0)
            if self._stopping:
                return
            pending, repair = self._pending(), next(iter(self._repairs), None)
        self._outbox.fence()
        if repair is not None:
            self._apply(repair)
            self._succeeded(lambda: self._repairs.pop(0))
        elif pending:
            self._replay()
        else:
            self._audit()

    def _audit(self) -> None:
        assert self._auditor is not None
        refused = {each.seq for each in self.rejections.standing}
        found = self._auditor.audit(self._outbox.events(self._offset), refused)
        if found.note:
            self._say(found.note)

        def keep() -> None:
            self._auditing, self._repairs = False, list(found.events)

        self._succeeded(keep)

    def _replay(self) -> None:
        """Apply the event at the cursor, and move it."""
        with self._changed:
            event = self._outbox.read(self._offset, self._replayed)
        if event is None:
            return
        self._apply(event)
        self._outbox.fence()
        write_atomic(self._cursor, self._cursor_text(event.end))

        def move() -> None:
            self._offset = event.end
            self._replayed += 1

        self._succeeded(move)

    def _apply(self, event: Event) -> None:
        """Raises what a retry may help against."""
        try:
            if not event.kind:
                raise Rejected("this line of the outbox is not an event")
            self._sink.apply(event)
        except Rejected as error:
            self.rejections.add(event, hide_password(str(error)), error.remedy)
        else:
            self.rejections.taken(event)

    def _succeeded(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self._error = self._failing_since = None
            self._changed.notify_all()

    def _cursor_text(self, offset: int) -> str:
        data: dict[str, Any] = {"offset": offset, "target": self._target}
        return json.dumps(data | ({"earlier": self._earlier} if self._earlier else {}))

    def _read_cursor(self) -> tuple[int, int]:
        """Byte offset and count of what this target got; (0, 0), all again, where that is not known."""
        try:
            data = parse(self._cursor.read_bytes())
        except FileNotFoundError:
            return 0, 0
        offset, target = data.get("offset"), data.get("target", self._target)
        known = data.get("earlier")
        cursors = dict(known) if isinstance(known, dict) else {}
        cursors[target] = offset
        offset = cursors.pop(self._target, 0)
        self._earlier = cursors
        count = self._outbox.events_before(offset) if isinstance(offset, int) else None
        return (0, 0) if count is None else (offset, count)
