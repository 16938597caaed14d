"""Collects the curve of a run while it trains: some 50 to 100 points over its budget."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch import Tensor

from meanflow_tune.curves import CurvePoint
from meanflow_tune.training.world import World

POINTS = 100


def no_system() -> dict[str, float]:
    """System metrics are sampled on request only."""
    return {}


class CurveRecorder:
    """The points since the last report, and the interval in progress; both survive a resume.

    Which steps end an interval follows from the budget alone, and the sums of an interval are part of
    the checkpoint: points since the last one are made again after a kill, never doubled.
    """

    def __init__(self, steps: int) -> None:
        self.points: list[CurvePoint] = []
        self._steps, self._interval = steps, -(-steps // POINTS)
        self._loss: Tensor | float = 0.0
        self._count, self._seconds = 0, 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Training continues, after a start or a rung."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Training pauses: evaluation and the wait for a decision are not time per step."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
        self._since = None

    def add(
        self,
        step: int,
        images: int,
        loss: Tensor,
        learning_rate: float,
        world: World,
        system: Callable[[], dict[str, float]] = no_system,
    ) -> None:
        """Count a step; step: its number, from 1. Collective at the end of an interval."""
        # In double precision and not read before the end, so that no step waits for a device.
        self._loss = self._loss + loss.detach().double()
        self._count += 1
        if step % self._interval and step != self._steps:
            return
        self.stop()
        mean = world.sum(float(self._loss)) / (self._count * world.size)
        step_ms = 1e3 * self._seconds / self._count
        now = time.time()
        self.points.append(CurvePoint(images, now, mean, learning_rate, step_ms, system()))
        self._loss, self._count, self._seconds = 0.0, 0, 0.0
        self.start()

    def take(self) -> list[CurvePoint]:
        """The points since the last report, which are then forgotten."""
        taken, self.points = self.points, []
        return taken

    def state_dict(self) -> dict[str, Any]:
        return {
            "points": [asdict(point) for point in self.points],
            "interval": [float(self._loss), self._count, self._seconds],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points = [CurvePoint(**point) for point in state["points"]]
        self._loss, self._count, self._seconds = state["interval"]
