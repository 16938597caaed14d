"""The command `benchmark.py search`: what a search costs beside training, ours and others in one run."""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import machine
from benchmarks.overhead.scaling import SLOTS, climb, scaling_table
from benchmarks.overhead.sides_run import Figures, measure
from benchmarks.overhead.tables import SIDES, bookkeeping_table, resume_table, sides_table
from meanflow_tune.driver.cli import whole
from meanflow_tune.plan.request import TEACHERS

if TYPE_CHECKING:
    from meanflow_tune.plan.request import SearchRequest

TITLES = {
    "trivial": "trivial trials: three reports and three small checkpoints, so that all is overhead",
    "short": "short trials: {steps} steps of a small network, three evaluations and checkpoints",
}
BOOKKEEPING, RESUME = 1000, 10_000


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The options of the command."""
    p.add_argument("--trials", type=whole(1), default=20, metavar="N", help="(default: 20)")
    p.add_argument(
        "--sides",
        nargs="+",
        choices=SIDES,
        default=tuple(SIDES),
        metavar="NAME",
        help=f"of {', '.join(SIDES)} (default: all)",
    )
    p.add_argument("--skip-real", action="store_true", help="trivial trials only")
    p.add_argument("--mlflow", action="store_true", help="ours with tracking; without by default")
    p.add_argument(
        "--patience",
        type=whole(1),
        default=300,
        metavar="SECONDS",
        help="a side without a finished trial for this long is ended (default: %(default)s)",
    )
    p.add_argument(
        "--bookkeeping",
        nargs="?",
        type=whole(1),
        const=BOOKKEEPING,
        metavar="N",
        help=f"instead: bookkeeping of N trials of simulated 5 s (default: {BOOKKEEPING})",
    )
    p.add_argument(
        "--resume",
        nargs="?",
        type=whole(1),
        const=RESUME,
        metavar="N",
        help=f"instead: resume a study of N stored trials (default: {RESUME})",
    )
    p.add_argument(
        "--slots",
        nargs="*",
        type=whole(1),
        metavar="N",
        help="instead: a driver with N simulated slots, then with the next N, until one saturates "
        f"(default: {' '.join(map(str, SLOTS))})",
    )
    p.add_argument(
        "--seconds",
        type=whole(1),
        default=30,
        metavar="N",
        help="with --slots: measured for so long per number of slots (default: %(default)s)",
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
    slots: Sequence[int] | None,
    seconds: int,
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
            data["bookkeeping"] = _bookkeeping(Path(folder) / "bookkeeping", bookkeeping)
        if resume is not None:
            data["resume"] = _resume(Path(folder) / "resume", resume)
        if slots is not None:
            steps = climb(Path(folder), slots or SLOTS, seconds, _progress)
            print(f"\n{scaling_table(steps)}", flush=True)
            data["slots"] = [asdict(one) for one in steps]
            status = int(any(one.note for one in steps))
        if bookkeeping is None and resume is None and slots is None:
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
    from benchmarks.overhead.short_space import STEPS

    (folder / TEACHERS).mkdir()
    if "short" in kinds:
        _progress("training the teacher that short trials share")
        _train_teacher(folder / TEACHERS)
    found: list[Figures] = []
    for kind in kinds:
        for side in sides:
            place = folder / f"{kind}-{side}"
            place.mkdir()
            (place / TEACHERS).symlink_to(folder / TEACHERS)
            found.append(measure(side, kind, trials, place, mlflow, patience, _progress))
        here = [one for one in found if one.kind == kind]
        print(f"\n{TITLES[kind].format(steps=STEPS)}\n{sides_table(here)}", flush=True)
    return found


def _train_teacher(cache: Path) -> None:
    """Into the cache, so that no side's first trial trains it."""
    import torch

    from benchmarks.overhead import short_space
    from benchmarks.overhead.trials import config_of
    from meanflow_tune.config import TrialConfig
    from meanflow_tune.records import SilentReporter
    from meanflow_tune.training.resources import Resources
    from meanflow_tune.training.world import World

    torch.set_num_threads(1)
    config = TrialConfig.from_dict(config_of(short_space.BASELINES["plain"]))
    Resources(cache, World(0, 1, "cpu")).teacher(config, SilentReporter())


# ---- bookkeeping -----------------------------------------------------------------------------


def _request(folder: Path, trials: int) -> "SearchRequest":
    from benchmarks.overhead.bookkeeping import STUDY
    from meanflow_tune.plan.request import SearchRequest

    return SearchRequest(study=STUDY, trials=trials, storage=folder, confirm=0, confirm_seeds=0)


def _bookkeeping(folder: Path, trials: int) -> dict[str, float]:
    from benchmarks.overhead.bookkeeping import simulate

    _progress(f"{trials} simulated trials")
    found = simulate(_request(folder, trials), _progress).summary()
    print(f"\n{bookkeeping_table(found)}", flush=True)
    return found


def _resume(folder: Path, stored: int) -> dict[str, Any]:
    from benchmarks.overhead.bookkeeping import make_study, resume

    _progress(f"making a study of {stored} trials")
    request = _request(folder, stored)
    make_study(request, _progress)
    size = (request.folder / "study.journal").stat().st_size / 2**20
    _progress(f"resuming it; its journal has {size:.0f} MiB")
    seconds, processor = resume(_request(folder, stored + 10))
    print(f"\n{resume_table(stored, size, seconds, processor)}", flush=True)
    return {"stored": stored, "journal_mib": size, "seconds": seconds, "processor": processor}


def _progress(line: str) -> None:
    end = "" if sys.stderr.isatty() else "\n"
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{start}{line}", end=end, file=sys.stderr, flush=True)
