"""What the ranks of a search did and when, from the files that `paced_worker` writes."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ALIVE_SECONDS = 6.0  # a rank whose last step is older does not train; evaluation takes a second


@dataclass(frozen=True)
class Rank:
    """A process of a slot. host, pid: where it runs and its pid there; started, seen: unix seconds of its
    first look at a job and of its last step; trial, step: of that step.
    """

    host: str
    pid: int
    rank: int
    started: float
    seen: float
    trial: int
    step: int


def ranks(folder: Path) -> Iterator[Rank]:
    """Every process that has trained, the dead ones included."""
    for file in folder.iterdir():
        host, pid, rank, started = file.name.split()
        with contextlib.suppress(IndexError):  # no whole line yet
            last = _last_line(file)
            seen, trial, step = last.split()
            yield Rank(
                host, int(pid), int(rank), float(started), float(seen), int(trial), int(step)
            )


def training(folder: Path, gone: Callable[[Rank], bool] = lambda rank: False) -> list[Rank]:
    """The first ranks of slots that train now, without those that are `gone` although they may step."""
    now = time.time()
    return [
        rank
        for rank in ranks(folder)
        if rank.rank == 0 and now - rank.seen < ALIVE_SECONDS and not gone(rank)
    ]


def _last_line(file: Path) -> str:
    with file.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - 200))
        return stream.read().rpartition(b"\n")[0].splitlines()[-1].decode()
