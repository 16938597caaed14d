"""Measures one side of `benchmark.py search`: its process, the lines it prints, and its costs."""

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
    """Figures of one side, over the trials after the first, which is a warm-up.

    start: seconds until the first trial had ended; seconds: of each trial, since the end of the
    previous one; processor: seconds per trial, of all processes (None where they cannot be counted);
    useful: share of the time spent in optimiser steps; note: why trials are missing.
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
    """Run a side in its own process for 1 + `trials` trials; everything that it starts ends with it."""
    found = Figures(side, kind)
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
            env=environment(),
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


def environment() -> dict[str, str]:
    """Variables of a side's process, which Ray's workers inherit.

    The benchmarks are installed nowhere, so PYTHONPATH has their folder. The token must be set before
    Ray is imported, which would otherwise write one into the home folder.
    """
    root = str(Path(__file__).resolve().parents[2])
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | own


def _lines(process: "subprocess.Popen[bytes]") -> "SimpleQueue[bytes | None]":
    """The lines that a process prints, then None."""
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
