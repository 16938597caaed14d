"""Collects the curve of a run while it trains: some 50 to 100 points over its budget."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
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
        # With the sum of the losses, in the place of their mean, and the number of steps.
        self._unread: list[tuple[CurvePoint, Tensor | float, int]] = []
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
        system: Callable[[], dict[str, float]] = no_system,
    ) -> None:
        """Count a step; step: its number, from 1."""
        # In double precision and not read before `settle`, so that no step waits for a device.
        self._loss = self._loss + loss.detach().double()
        self._count += 1
        if step % self._interval and step != self._steps:
            return
        self.stop()
        step_ms = 1e3 * self._seconds / self._count
        now = time.time()
        point = CurvePoint(images, now, 0.0, learning_rate, step_ms, system())
        self._unread.append((point, self._loss, self._count))
        self._loss, self._count, self._seconds = 0.0, 0, 0.0
        self.start()

    def settle(self, world: World) -> None:
        """Read the losses of the points since the last time. Collective; before `take` and `state_dict`."""
        for point, loss, count in self._unread:
            mean = world.sum(float(loss)) / (count * world.size)
            self.points.append(replace(point, loss=mean))
        self._unread.clear()

    def take(self) -> list[CurvePoint]:
        """The points since the last report, which are then forgotten."""
        taken, self.points = self.points, []
        return taken

    def state_dict(self) -> dict[str, Any]:
        if self._unread:
            raise RuntimeError("`settle` must be called before the state of a curve is taken")
        return {
            "points": [asdict(point) for point in self.points],
            "interval": [float(self._loss), self._count, self._seconds],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points = [CurvePoint(**point) for point in state["points"]]
        self._loss, self._count, self._seconds = state["interval"]
