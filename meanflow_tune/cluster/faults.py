"""Faults of a search: one record each, which the driver takes once."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from meanflow_tune.cluster.job_queue import Delivery
from meanflow_tune.cluster.slot_records import Slot
from meanflow_tune.urls import hide_password

CAUSE_LENGTH = 300
_TRACEBACK = "Traceback (most recent call last):"


@dataclass(frozen=True)
class Fault:
    """index: counts the faults of a search from 0; time: unix seconds; host: names, "" where unknown.

    number: the trial that was cut short, None where the slot had none; lost: its images since its
    newest checkpoint; action: what is done about it.
    """

    index: int
    time: float
    slot: str
    host: str
    number: int | None
    lost: int
    cause: str
    action: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class FaultLog:
    """Faults in order, kept until the driver has confirmed them. now: unix seconds."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._next = 0
        self._kept: deque[Fault] = deque()

    def add(
        self,
        slot: str,
        host: str,
        cause: str,
        action: str,
        number: int | None = None,
        lost: int = 0,
    ) -> None:
        """Append a record; its texts become one printable line each."""
        words = one_cause(cause), one_cause(action)
        fault = Fault(self._next, self._now(), slot, one_cause(host), number, lost, *words)
        self._kept.append(fault)
        self._next += 1

    def cut_short(self, slot: Slot, delivery: Delivery, action: str, host: str = "") -> None:
        """A slot cannot finish its job."""
        default = "its host went away" if slot.leaving else "its processes ended"
        cause = delivery.cause if delivery.explained else default
        self.add(slot.name, host or slot.quiet_host(), cause, action, slot.number, delivery.lost)
        slot.told = True

    def leaving(self, slot: Slot) -> None:
        """The host of a slot without a job is going away."""
        self._idle(slot, slot.host, "its host is going away", "restarts where there is room")

    def silent(self, slot: Slot, seconds: float) -> None:
        """A slot without a job does not answer."""
        cause = f"silent for {seconds:.0f} s"
        self._idle(slot, slot.quiet_host(), cause, "takes no trial until it answers")

    def _idle(self, slot: Slot, host: str, cause: str, action: str) -> None:
        if not slot.told:
            self.add(slot.name, host, cause, action)
            slot.told = slot.ending = True

    def after(self, taken: int) -> list[dict[str, Any]]:
        """The records from index `taken` on; those before have reached the driver and are dropped.

        A driver that asks again with the same index, since an answer was lost, gets the same.
        """
        while self._kept and self._kept[0].index < taken:
            self._kept.popleft()
        return [fault.to_dict() for fault in self._kept]


def one_cause(text: str) -> str:
    """One printable line: of a traceback what comes before it, and its last line."""
    head, found, rest = text.partition(_TRACEBACK)
    if found:
        lines = [line for line in rest.splitlines() if line.strip()]
        text = f"{head} {lines[-1] if lines else ''}"
    shown = "".join(c if c.isprintable() else " " for c in text)
    line = hide_password(" ".join(shown.split()))
    return line if len(line) <= CAUSE_LENGTH else f"{line[: CAUSE_LENGTH - 1]}…"
