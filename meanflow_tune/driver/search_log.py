"""The log of a search: search.log in the study's folder, and the faults of its slots."""

import json
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meanflow_tune.files import OnlyShown
from meanflow_tune.report.characters import one_line
from meanflow_tune.report.state.fault_lines import fault_line, fault_summary
from meanflow_tune.report.state.status_file import STATUS_NAME
from meanflow_tune.report.state.values import mappings, number
from meanflow_tune.search.errors import StorageError, StudyInUse
from meanflow_tune.urls import hide_password

LOG_NAME = "search.log"
KEPT = 20  # faults in status.json

logger = logging.getLogger(__name__)


class SearchLog:
    """Appends what a user is told to search.log, one line each with the date, and counts faults.

    say: gets one line if the file cannot be written.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.path = folder / LOG_NAME
        self._shown = OnlyShown(say)
        self._lock = threading.Lock()
        self._taken = 0  # records of the broker, by their index
        self._count = 0  # of this run of the command
        before = _faults_before(folder)
        self._total = int(number(before.get("total")))
        self._last: deque[Mapping[str, Any]] = deque(mappings(before.get("last")), maxlen=KEPT)

    def write(self, text: str) -> None:
        """Append a line. A failure is told once and ends nothing."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {one_line(hide_password(text.strip()))}\n"

        def append() -> None:
            # Opened for each line: the folder may be put aside, and a full disk cleared.
            with self._lock, open(self.path, "a", encoding="utf-8") as file:
                file.write(line)

        self._shown(f"write {LOG_NAME}", append, None)

    @contextmanager
    def run(self, command: str, fence: Callable[[], None]) -> Iterator[Callable[[int], None]]:
        """One run of the command: its first line, and how it ended. Gives what takes the exit status.

        fence: raises when another driver has taken over, whose log it is then.
        """
        self.write(f"process {os.getpid()} on {socket.gethostname()}: {command}")
        ended = ["ended"]
        try:
            yield lambda status: ended.append(f"with status {status}")
        except BaseException as error:
            if _allows(fence):
                self.write(f"ended: {str(error) or type(error).__name__}")
            raise
        self.write(" ".join(ended))

    def take(self, faults: Sequence[Mapping[str, Any]], title: Callable[[int], str]) -> list[str]:
        """The lines of the faults that are new. faults: of a broker's snapshot; title: names a trial."""
        lines = []
        for record in faults:
            if record["index"] < self._taken:
                continue
            self._taken = record["index"] + 1
            number = record["number"]
            fault = {**record, "trial": title(number) if number is not None else ""}
            self._last.append(fault)
            self._count, self._total = self._count + 1, self._total + 1
            lines.append(f"fault: {fault_line(fault)}")
            logger.info("%s", lines[-1])
        return lines

    def state(self) -> dict[str, Any]:
        """For status.json: how many faults there were in all runs of the command, and the last ones."""
        return {"total": self._total, "last": list(self._last)}

    def summary(self) -> str:
        """The faults of this run of the command in one line; "" without any."""
        return fault_summary(self._count, list(self._last)[-self._count :], str(self.path))


def _allows(fence: Callable[[], None]) -> bool:
    try:
        fence()
    except (StorageError, StudyInUse):
        return False
    return True


def _faults_before(folder: Path) -> Mapping[str, Any]:
    """What an earlier driver left in status.json."""
    try:
        faults = json.loads((folder / STATUS_NAME).read_text(encoding="utf-8"))["faults"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return faults if isinstance(faults, dict) else {}
