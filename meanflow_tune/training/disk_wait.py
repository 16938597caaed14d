"""Waiting while the disk is full: all ranks stay in step, and the search sees why nothing moves."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from meanflow_tune.files import free_space, is_full
from meanflow_tune.training.world import World

PAUSE_SECONDS = 2.0
NO_SPACE = "waiting for disk space"  # the phase of a job meanwhile


class Interrupted(Exception):
    """The sink asked to stop where a job waited, or before its training began."""


class Listener(Protocol):
    """The part of a sink that a waiting job talks to."""

    def tick(self, progress: dict[str, Any]) -> None: ...
    def stopping(self) -> bool: ...


def write_or_wait(
    world: World, sink: Listener, write: Callable[[], object], folder: Path, images: int = 0
) -> None:
    """Rank 0's `write` somewhere below `folder`, again and again while the disk is full. Collective.

    Each wait is a tick, so that nobody takes the job for stuck; images: seen so far, to be shown.
    Raises Interrupted when the sink asks to stop meanwhile, and what else `write` raises.
    """
    while True:
        full = stop = False
        if world.leads:
            try:
                write()
            except Exception as error:
                if not is_full(error):
                    raise
                full, stop = True, sink.stopping()
        full, stop = world.share((full, stop))
        if not full:
            return
        if stop:
            raise Interrupted(f"interrupted while waiting for space in {folder}")
        if world.leads:
            where = {"folder": str(folder), "free": free_space(folder)}
            sink.tick({"phase": NO_SPACE, "images": images, "of": 0, **where})
        time.sleep(PAUSE_SECONDS)
