"""Waiting while the disk is full: all ranks stay in step, and the search is told why nothing moves."""

import time
from collections.abc import Callable
from pathlib import Path

from meanflow_tune.files import free_space, is_full
from meanflow_tune.records import Reporter
from meanflow_tune.training.world import World

PAUSE_SECONDS = 2.0
NO_SPACE = "waiting for disk space"  # the phase of a job meanwhile


class Interrupted(Exception):
    """The search stopped where a job waited, or before its training started."""


def unfenced() -> None:
    """The fence of a folder that only this process writes."""


def write_or_wait(
    world: World,
    reporter: Reporter,
    folder: Path,
    write: Callable[[], object],
    images: int = 0,
    fence: Callable[[], None] = unfenced,
) -> None:
    """Rank 0's `write` below `folder`, retried while the disk is full. Collective.

    fence: called before each try, and raises when another driver owns the folder. Each wait is a tick,
    so that the job does not seem stuck; images: seen so far, to be shown. Raises Interrupted when the
    search stops meanwhile, and every other error of `fence` and `write`.
    """
    while True:
        full = stop = False
        if world.leads:
            try:
                fence()
                write()
            except Exception as error:
                if not is_full(error):
                    raise
                full, stop = True, reporter.stopping()
        full, stop = world.share((full, stop))
        if not full:
            return
        if stop:
            raise Interrupted(f"interrupted while waiting for space in {folder}")
        if world.leads:
            where = {"folder": str(folder), "free": free_space(folder)}
            reporter.tick({"phase": NO_SPACE, "images": images, "of": 0, **where})
        time.sleep(PAUSE_SECONDS)
