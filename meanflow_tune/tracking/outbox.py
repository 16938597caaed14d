"""The outbox: events for a tracking server, first stored on disk, in order, each once.

`put` never touches the network; a `Replayer` (replay.py) passes the events on.
"""

import errno
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meanflow_tune.files import WritePolicy, write_atomic, write_once
from meanflow_tune.urls import hide_passwords

_HEAD = re.compile(rb'\{"kind": "\w*", "key": (null|"(?:[^"\\]|\\.)*"), ')


@dataclass(frozen=True)
class Event:
    """seq: place in the outbox, from 0; time: unix seconds of `put`; end: byte behind its line.

    key: what it was put under; None for what may be put again.
    """

    seq: int
    kind: str
    time: float
    payload: dict[str, Any]
    end: int
    key: str | None = None


class Outbox:
    """Append-only `outbox/events.jsonl` in a study's folder, for one writing process at a time.

    uid identifies the study, even if it is renamed or its folder is moved.
    written: number of events; changed: notified after each. fence: raises when another process has
    taken the study over; write_policy: how a write is made, see `files.WaitForSpace`.
    """

    def __init__(
        self,
        folder: Path,
        fence: Callable[[], None] = lambda: None,
        write_policy: WritePolicy = write_once,
    ) -> None:
        self.fence = fence
        self.write_policy = write_policy
        self.folder = Path(folder) / "outbox"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.changed = threading.Condition()
        self.written = 0
        self._path = self.folder / "events.jsonl"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = 0
        self._keys: set[str] = set()
        self._recover()
        uid = self.folder / "uid"
        if not uid.exists():
            write_atomic(uid, uuid.uuid4().hex)
        self.uid = _sound_uid(uid)

    def _recover(self) -> None:
        """Count the events, collect their keys, cut off a torn last line (never acknowledged)."""
        with self._path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    os.ftruncate(self._file, self._size)
                    break
                self._size += len(line)
                self.written += 1
                key = _key(line)
                if key is not None:
                    self._keys.add(key)

    def has(self, key: str) -> bool:
        """Whether an event with this key is there."""
        with self.changed:
            return key in self._keys

    def put(self, kind: str, /, *, key: str | None = None, **payload: Any) -> bool:
        """Append an event and sync it to disk; False where one with this key is already there.

        Raises OSError where the disk refuses (full), unless `write_policy` waits for space; the file is then
        as it was before. Raises what the fence raises.
        """
        with self.changed:
            if key is not None and key in self._keys:
                return False
            data = {
                "kind": kind,
                "key": key,
                "time": time.time(),
                "payload": hide_passwords(payload),
            }
            line = (json.dumps(data) + "\n").encode()
            self.write_policy(lambda: self._append(line), self.folder)
            self._size += len(line)
            self.written += 1
            if key is not None:
                self._keys.add(key)
            self.changed.notify_all()
            return True

    def _append(self, line: bytes) -> None:
        self.fence()
        try:
            count = os.write(self._file, line)
            if count != len(line):  # the disk took a part and has no space for the rest
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise

    def read(self, offset: int, seq: int) -> Event | None:
        """The event whose line starts at byte `offset`; None at the end; kind "" if unreadable."""
        if offset >= self._size:
            return None
        with self._path.open("rb") as lines:
            lines.seek(offset)
            return _event(lines.readline(), offset, seq)

    def events(self, end: int) -> Iterator[Event]:
        """All events that end by byte `end`."""
        offset = 0
        with self._path.open("rb") as lines:
            for seq, line in enumerate(lines):
                if offset + len(line) > end:
                    return
                event = _event(line, offset, seq)
                offset = event.end
                yield event

    def events_before(self, offset: int) -> int | None:
        """How many events end by byte `offset`; None where that is not the end of one."""
        if not 0 <= offset <= self._size:
            return None
        with self._path.open("rb") as lines:
            before = lines.read(offset)
        return before.count(b"\n") if before.endswith(b"\n") else None

    def close(self) -> None:
        """Close the file; nothing can be put any more."""
        os.close(self._file)


def read_uid(folder: Path) -> str | None:
    """The uid of the outbox in a study's folder; None without one. Creates nothing."""
    try:
        return _sound_uid(Path(folder) / "outbox" / "uid")
    except FileNotFoundError:
        return None


def _sound_uid(path: Path) -> str:
    """The uid in a file. Raises OSError where it is damaged: MLflow would show the study a second time."""
    text = path.read_bytes()[:100].decode("ascii", errors="replace").strip()
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) is None:
        raise OSError(
            errno.EINVAL,
            "does not hold the identifier under which MLflow knows the study; restore it from a copy, or"
            " remove it, and MLflow gets a second search run",
            str(path),
        )
    return text


def _key(line: bytes) -> str | None:
    """The key of an event: from the head of its line, as `put` writes it, else by reading it all."""
    head = _HEAD.match(line)
    key = json.loads(head[1]) if head else parse(line).get("key")
    return key if isinstance(key, str) else None


def _event(line: bytes, offset: int, seq: int) -> Event:
    data = parse(line)
    return Event(
        seq=seq,
        kind=data.get("kind", ""),
        time=data.get("time", 0.0),
        payload=data.get("payload", {}),
        end=offset + len(line),
        key=data.get("key"),
    )


def parse(line: bytes) -> dict[str, Any]:
    """The JSON object on a line, empty where there is none."""
    try:
        data = json.loads(line)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
