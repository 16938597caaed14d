"""The command `benchmark.py search`: what a search costs beside training, ours and others in one run."""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from meanflow_tune.benchmarks.machine import machine
from meanflow_tune.benchmarks.processes import Family

SIDE_NAMES = ("ours-1", "ours-2", "trainer-1", "trainer-2", "tune", "optuna")
TITLES = {
    "trivial": "trivial trials: three reports and three small checkpoints, so that all is overhead",
    "short": "short trials: {steps} steps of a small network, three evaluations and checkpoints",
}
RATIOS = (("trainer-1", "ours-1"), ("trainer-2", "ours-2"))
BOOKS, RESUME = 1000, 10_000


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


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The options of the command."""
    p.add_argument("--trials", type=_positive, default=20, metavar="N", help="(default: 20)")
    p.add_argument(
        "--sides",
        nargs="+",
        choices=SIDE_NAMES,
        default=SIDE_NAMES,
        metavar="NAME",
        help=f"of {', '.join(SIDE_NAMES)} (default: all)",
    )
    p.add_argument("--skip-real", action="store_true", help="trivial trials only")
    p.add_argument("--mlflow", action="store_true", help="ours with tracking; without by default")
    p.add_argument(
        "--patience",
        type=_positive,
        default=300,
        metavar="SECONDS",
        help="a side without a finished trial for this long is ended (default: %(default)s)",
    )
    p.add_argument(
        "--bookkeeping",
        nargs="?",
        type=_positive,
        const=BOOKS,
        metavar="N",
        help=f"instead: books of N trials of simulated 5 s (default: {BOOKS})",
    )
    p.add_argument(
        "--resume",
        nargs="?",
        type=_positive,
        const=RESUME,
        metavar="N",
        help=f"instead: resume a study of N stored trials (default: {RESUME})",
    )
    p.add_argument(
        "--json", dest="json_file", type=Path, metavar="FILE", help="write figures there too"
    )


def search(
    *,
    trials: int,
    sides: Sequence[str],
    skip_real: bool,
    mlflow: bool,
    patience: int,
    bookkeeping: int | None,
    resume: int | None,
    json_file: Path | None,
    command: Sequence[str],
) -> int:
    """Print the machine, the command and a table each; 1 where a side broke off.

    Raises ValueError before anything is measured for what cannot be done.
    """
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise ValueError(f"--json {json_file}: there is no folder {json_file.parent}")
    where = machine()
    print(f"{where}\n$ {shlex.join(command)}", flush=True)
    data: dict[str, Any] = {"machine": where, "command": shlex.join(command)}
    status = 0
    with tempfile.TemporaryDirectory(prefix="mft-benchmark-") as folder:
        if bookkeeping is not None:
            data["bookkeeping"] = _bookkeeping(Path(folder) / "books", bookkeeping)
        if resume is not None:
            data["resume"] = _resume(Path(folder) / "resume", resume)
        if bookkeeping is None and resume is None:
            kinds = ("trivial",) if skip_real else ("trivial", "short")
            found = _compare(Path(folder), kinds, sides, trials, mlflow, patience)
            data["sides"] = [asdict(one) for one in found]
            status = int(any(one.note for one in found))
    if json_file is not None:
        json_file.write_text(json.dumps(data, indent=1))
    return status


# ---- the sides -------------------------------------------------------------------------------


def _compare(
    folder: Path,
    kinds: Sequence[str],
    sides: Sequence[str],
    trials: int,
    mlflow: bool,
    patience: int,
) -> list[Figures]:
    from meanflow_tune.benchmarks.short_space import STEPS

    (folder / "teachers").mkdir()
    if "short" in kinds:
        _progress("training the teacher that short trials share")
        _train_teacher(folder / "teachers")
    found: list[Figures] = []
    for kind in kinds:
        for side in sides:
            place = folder / f"{kind}-{side}"
            place.mkdir()
            (place / "teachers").symlink_to(folder / "teachers")
            found.append(measure(side, kind, trials, place, mlflow, patience, _progress))
        here = [one for one in found if one.kind == kind]
        print(f"\n{TITLES[kind].format(steps=STEPS)}\n{table(here)}", flush=True)
    return found


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
            [sys.executable, "-m", "meanflow_tune.benchmarks.sides", *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | {"PYTHONPATH": paths},
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


class _Silent:
    """A sink that nobody listens to."""

    def report(self, report: Any) -> bool:
        return True

    def tick(self, progress: dict[str, Any]) -> None: ...

    def stopping(self) -> bool:
        return False


def _train_teacher(cache: Path) -> None:
    """Into the cache, so that no side's first trial trains it."""
    import torch

    from meanflow_tune.benchmarks import short_space
    from meanflow_tune.benchmarks.trials import config_of
    from meanflow_tune.config import TrialConfig
    from meanflow_tune.training.resources import Resources
    from meanflow_tune.training.world import World

    torch.set_num_threads(1)
    config = TrialConfig.from_dict(config_of(short_space.BASELINES["plain"]))
    Resources(cache, World(0, 1, "cpu")).teacher(config, _Silent())


# ---- tables ----------------------------------------------------------------------------------


def table(found: Sequence[Figures]) -> str:
    """A line a side, and the ratios of medians where both are there."""
    from meanflow_tune.benchmarks.sides import SIDES

    lines = [
        f"{'':40}{'start s':>9}{'median s':>10}{'mean s':>9}{'processor s':>13}{'useful':>8}{'trials':>8}"
    ]
    lines.append("-" * len(lines[0]))
    for one in found:
        busy = "?" if one.processor is None else f"{one.processor:.2f}"
        useful = "-" if one.kind == "trivial" else f"{100 * one.useful:.0f} %"
        lines.append(
            f"{SIDES[one.side].title:40}{one.start:>9.1f}{one.median:>10.3f}{one.mean:>9.3f}"
            f"{busy:>13}{useful:>8}{len(one.seconds):>8}"
        )
        if one.note:
            lines.append(f"    {one.note}")
    by_side = {one.side: one for one in found if one.seconds}
    for slow, quick in RATIOS:
        if slow in by_side and quick in by_side:
            ratio = by_side[slow].median / by_side[quick].median
            lines.append(f"median of {slow} / median of {quick}: {ratio:.1f}")
    lines.append(
        "one trial at a time; the first is the start and counts nowhere else; processor: seconds a trial"
        "\nof all processes, by /proc four times a second; useful: share of the time in optimiser steps"
    )
    return "\n".join(lines)


# ---- books -----------------------------------------------------------------------------------


def _request(folder: Path, trials: int) -> Any:
    from meanflow_tune.benchmarks.books import STUDY
    from meanflow_tune.request import SearchRequest

    return SearchRequest(study=STUDY, trials=trials, storage=folder, confirm=0, confirm_seeds=0)


def _bookkeeping(folder: Path, trials: int) -> dict[str, float]:
    from meanflow_tune.benchmarks import books

    _progress(f"{trials} simulated trials")
    found = books.bookkeeping(_request(folder, trials), _progress).summary()
    print(f"\n{books_table(found)}", flush=True)
    return found


def books_table(found: Mapping[str, float]) -> str:
    """Seconds of bookkeeping a trial, and what share of the time that is."""
    edge = f"{found['edge']:.0f}"
    lines = [
        f"bookkeeping of {found['trials']:.0f} trials of simulated 5 s, the default space and sampler",
        f"{'':14}{'first ' + edge:>12}{'last ' + edge:>12}{'all':>9}{'last / first':>15}",
    ]
    for name, growth in (("seconds", "growth"), ("processor", "processor growth")):
        first, last, mean = (found[f"{name} {part}"] for part in ("first", "last", "mean"))
        title = "s a trial" if name == "seconds" else "processor s"
        lines.append(f"{title:14}{first:>12.3f}{last:>12.3f}{mean:>9.3f}{found[growth]:>15.2f}")
    lines.append(
        f"share of 5 s: {100 * found['share']:.1f} %; of the time simulated, which is shorter where "
        f"trials are stopped: {100 * found['share of trained']:.1f} %"
        f"\nof it for the status file and the live view: {100 * found['status share']:.0f} %"
    )
    return "\n".join(lines)


def _resume(folder: Path, stored: int) -> dict[str, Any]:
    from meanflow_tune.benchmarks import books

    _progress(f"making a study of {stored} trials")
    books.stored_trials(_request(folder, stored), stored, _progress)
    journal = folder / books.STUDY / "study.journal"
    size = journal.stat().st_size / 2**20
    _progress(f"resuming it; its journal has {size:.0f} MiB")
    seconds, processor = books.resume(_request(folder, stored + 10))
    print(f"\n{resume_table(stored, size, seconds, processor)}", flush=True)
    return {"stored": stored, "journal_mib": size, "seconds": seconds, "processor": processor}


def resume_table(
    stored: int, size: float, seconds: Mapping[str, float], processor: Mapping[str, float]
) -> str:
    """The steps of the driver up to the first suggestion."""
    lines = [
        f"resume of {stored:,} stored trials, a journal of {size:.0f} MiB, to the first suggestion",
        f"{'':20}{'seconds':>10}{'processor s':>13}",
    ]
    for step, spent in seconds.items():
        busy = f"{processor[step]:.2f}" if step in processor else ""
        lines.append(f"{step:20}{spent:>10.2f}{busy:>13}")
    return "\n".join(lines)


def _progress(line: str) -> None:
    end = "" if sys.stderr.isatty() else "\n"
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{start}{line}", end=end, file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but got {value}")
    return value
