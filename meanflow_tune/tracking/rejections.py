"""Events that a sink refused, with the reason, over all drivers of a study; none of them is used up.

`outbox/rejected.jsonl` gets a line when an event is refused and another when it was taken after all: each
driver sends what is refused once more.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meanflow_tune.tracking.outbox import Event, parse

NAME = "rejected.jsonl"
SHOWN = 3  # reasons named in a summary
LENGTH = 300  # of a reason in a line for the terminal


@dataclass(frozen=True)
class Rejection:
    """seq: of the event in the outbox; subject: the trial that it is about, or "the search"."""

    seq: int
    kind: str
    subject: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        words = f"{self.subject}, {self.kind.replace('_', ' ')}: {_short(self.reason)}"
        return f"{words}; {self.remedy}" if self.remedy else words


class Rejections:
    """The rejections of an outbox folder that stand; say: gets a line for each new one."""

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda line: None) -> None:
        self._path, self._say = folder / NAME, say
        self._standing = _read(self._path)

    @property
    def standing(self) -> list[Rejection]:
        """Those whose events were not taken later, in the order of the events."""
        return [self._standing[seq] for seq in sorted(self._standing)]

    def add(self, event: Event, reason: str, remedy: str) -> None:
        """An event was refused. Says it, unless it was refused for the same reason before."""
        trial = event.payload.get("trial")
        subject = "the search" if trial is None else f"trial {trial}"
        new = Rejection(event.seq, event.kind or "unreadable", subject, reason, remedy)
        if self._standing.get(event.seq) == new:
            return
        self._write({**asdict(new), "time": time.time(), "payload": event.payload})
        self._standing = self._standing | {event.seq: new}
        self._say(f"MLflow refused an event ({new}); the search continues, and the event is kept")

    def taken(self, event: Event) -> None:
        """An event was taken."""
        if event.seq in self._standing:
            self._write({"seq": event.seq, "taken": time.time()})
            self._standing = {k: v for k, v in self._standing.items() if k != event.seq}

    def lines(self, name: str) -> list[str]:
        """How many events of a study stand refused, over all of its drivers, and why; empty for none."""
        standing = self.standing
        if not standing:
            return []
        reasons = Counter((_short(each.reason), each.remedy) for each in standing)
        lines = [
            f"{len(standing)} event{'s' if len(standing) > 1 else ''} of {name} refused by MLflow, kept in "
            f"{self._path}; running the same command again sends them once more"
        ]
        for (reason, remedy), count in reasons.most_common(SHOWN):
            lines.append(f"  {count} x {reason}" + (f"; {remedy}" if remedy else ""))
        if len(reasons) > SHOWN:
            lines.append(f"  and {len(reasons) - SHOWN} further reasons")
        return lines

    def _write(self, entry: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def _read(path: Path) -> dict[int, Rejection]:
    standing: dict[int, Rejection] = {}
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return standing
    for line in lines:
        data = parse(line)
        seq = data.get("seq")
        if not isinstance(seq, int):
            continue
        if "taken" in data:
            standing.pop(seq, None)
            continue
        trial = data.get("payload", {}).get("trial")  # of lines of earlier revisions
        subject = data.get("subject") or ("the search" if trial is None else f"trial {trial}")
        kind, reason, remedy = (str(data.get(key, "")) for key in ("kind", "reason", "remedy"))
        standing[seq] = Rejection(seq, kind, subject, reason, remedy)
    return standing


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= LENGTH else f"{line[:LENGTH]}..."
