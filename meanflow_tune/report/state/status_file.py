"""status.json: what a driver wrote last, read so that no content of the file can break a screen."""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.report.state.host_state import HostState, read_hosts
from meanflow_tune.report.state.trial_rows import StudyState, read_state
from meanflow_tune.report.state.values import number, text, texts
from meanflow_tune.urls import hide_password

STATUS_NAME = "status.json"
STALE_SECONDS = 15.0
# A larger journal takes seconds to read.
READ_BYTES = 16 * 2**20
TEXTS = ("best", "teacher", "forecast", "rungs", "front")
LISTS = ("warnings", "picture", "tracking", "waiting")


@dataclass(frozen=True)
class Source:
    """Where a study's trials were read. journal: the file's name; size: its bytes before they were read,
    None where the study is in a database; database: its URL without a password, "" if not given.
    """

    journal: str = ""
    size: int | None = None
    database: str = ""

    @classmethod
    def of(cls, request: SearchRequest, journal: str) -> "Source":
        """As it is now."""
        size: int | None = None
        name = Path(journal).name  # alone: what it is comes from a file
        with contextlib.suppress(OSError, ValueError):
            size = (request.folder / name).stat().st_size if name else None
        return cls(journal, size, hide_password(request.study_storage or ""))

    def to_dict(self) -> dict[str, Any]:
        return {"journal": self.journal, "bytes": self.size, "database": self.database}


@dataclass(frozen=True)
class Status:
    """time: unix seconds when it was written, 0 without a file; ended: by a driver that ended.

    total: of the search's trials, 0 where unknown; running: rows of the running trials; words: texts and
    lists of texts by their keys; faults: of `SearchLog.state`; trials: None where the file has none of this
    study; source: where they were read.
    """

    time: float = 0.0
    ended: bool = False
    total: int = 0
    running: tuple[Mapping[str, Any], ...] = ()
    words: dict[str, Any] = field(default_factory=dict)
    hosts: tuple[HostState, ...] = ()
    faults: object = None
    trials: StudyState | None = None
    source: Source = Source()

    @property
    def age(self) -> float:
        """Seconds since it was written."""
        return time.time() - self.time


def read_status(request: SearchRequest) -> Status:
    """What the driver last wrote; nothing of what cannot be read or is of another kind."""
    try:
        state = json.loads((request.folder / STATUS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        state = {}
    if not isinstance(state, dict):
        state = {}
    running = state.get("running")
    rows = [row for row in running if isinstance(row, dict)] if isinstance(running, list) else []
    words: dict[str, Any] = {key: text(state.get(key)) for key in TEXTS}
    words |= {key: texts(state.get(key)) for key in LISTS}
    source = state.get("source")
    source = source if isinstance(source, dict) else {}
    size = None if source.get("bytes") is None else int(number(source["bytes"]))
    ours = state.get("search") == request.study
    # While the confirmation runs, the file's `total` is that of the confirmation.
    total = state.get("total") if state.get("study") == request.study else state.get("trials_asked")
    return Status(
        time=number(state.get("time")),
        ended=state.get("ended") is True,
        total=int(number(total)),
        running=tuple(_row(row) for row in rows),
        words=words,
        hosts=tuple(read_hosts(state.get("slots"))),
        faults=state.get("faults"),
        trials=read_state(state.get("trials")) if ours else None,
        source=Source(text(source.get("journal")), size, text(source.get("database"))),
    )


def trusted_trials(
    request: SearchRequest, status: Status, live: bool
) -> tuple[StudyState | None, bool]:
    """The trials that the driver left, or None if the study must be read; and whether there may be newer
    ones in it. live: the driver is at work, and writes them again every few seconds."""
    now = Source.of(request, status.source.journal)
    if status.trials is None or (now.database and now.database != status.source.database):
        return None, False
    same = now.size == status.source.size and (now.size is not None or status.ended)
    if same or live:
        return status.trials, False
    if now.size is None or now.size <= READ_BYTES:
        return None, False
    return status.trials, True


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `Stage.on_tick`: texts, and two numbers of images."""
    words = {key: text(row[key]) for key in ("name", "what", "phase", "last") if key in row}
    return words | {key: int(number(row.get(key))) for key in ("images", "of")}
