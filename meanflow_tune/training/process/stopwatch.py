"""How long the stages before a training take, logged at INFO; `-v` shows what the ranks log."""

import logging
import sys
import time
from pathlib import Path

NAME = "meanflow_tune.start"


class Stopwatch:
    """Seconds of consecutive stages."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._last = time.monotonic()

    def mark(self, stage: str) -> None:
        """A stage ends, and the next one begins."""
        now = time.monotonic()
        self._parts.append(f"{stage} {now - self._last:.1f} s")
        self._last = now

    def log(self, what: str) -> None:
        """Log the stages so far."""
        logging.getLogger(NAME).info("%s: %s", what, ", ".join(self._parts))


def show_start() -> None:
    """Let this process show what stopwatches log, on standard error."""
    log = logging.getLogger(NAME)
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.setLevel(logging.INFO)
        log.propagate = False


def process_age() -> float | None:
    """Seconds since this process began; None where the system does not tell."""
    try:
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError, IndexError):
        return None
    return uptime - int(ticks) / 100.0
