"""Measuring one side of `benchmark.py search`: its process, its lines, and what all of it costs."""

import json
import math
import os
import secrets
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from benchmarks.overhead.processes import Family


@dataclass
class Figures:
    """Of one side, over the trials behind the first, which warms up.

    start: seconds until the first trial had ended; seconds: of each trial, from the end of the one
    before; processor: seconds a trial, of all processes (None where they cannot be counted);
    useful: the share of the time that went into optimiser steps; note: why trials are missing.
    """

    side: str
    kind: str
    start: float = math.nan
    seconds: list[float] = field(default_factory=list)
    processor: float | None = None
    useful: float = math.nan
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else math.nan

    @property
    def mean(self) -> float:
        return statistics.mean(self.seconds) if self.seconds else math.nan


def measure(
    side: str,
    kind: str,
    trials: int,
    folder: Path,
    mlflow: bool,
    patience: float,
    progress: Callable[[str], None],
) -> Figures:
    """Run a side in a process of its own for 1 + `trials` trials; all that it started ends with it."""
    found = Figures(side, kind)
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    arguments = [side, kind, str(1 + trials), str(folder), *(["mlflow"] if mlflow else [])]
    began = time.perf_counter()
    ends: list[float] = []
    training: list[float] = []
    spent: list[float | None] = []
    with (
        open(folder / "log", "w+b") as log,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.overhead.sides", *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(paths),
        ) as process,
        Family(process.pid) as family,
    ):
        lines = _lines(process)
        while len(ends) <= trials:
            try:
                line = lines.get(timeout=patience)
            except Empty:
                found.note = (
                    f"no trial ended for {patience:.0f} s after {len(ends)} of {1 + trials}"
                )
                break
            if line is None:
                found.note = f"broke off after {len(ends)} of {1 + trials}: {_last_line(log)}"
                break
            ends.append(time.perf_counter())
            training.append(float(json.loads(line)["training"]))
            spent.append(family.seconds())
            progress(f"{side}, {kind}: {len(ends)} of {1 + trials} trials")
        if not found.note:
            process.wait(patience)
    if ends:
        found.start = ends[0] - began
        found.seconds = [after - before for before, after in pairwise(ends)]
    if found.seconds:
        first, last = spent[0], spent[-1]
        if first is not None and last is not None:
            found.processor = (last - first) / len(found.seconds)
        found.useful = math.fsum(training[1:]) / (ends[-1] - ends[0])
    return found


def _environment(paths: str) -> dict[str, str]:
    """Set before Ray is imported: its own token, so that it writes none into the home folder."""
    own = {
        "PYTHONPATH": paths,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | own


def _lines(process: "subprocess.Popen[bytes]") -> "SimpleQueue[bytes | None]":
    """What a process prints, line by line, and None at its end."""
    queue: SimpleQueue[bytes | None] = SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            queue.put(line)
        queue.put(None)

    threading.Thread(target=read, daemon=True).start()
    return queue


def _last_line(log: Any) -> str:
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "it printed nothing"
