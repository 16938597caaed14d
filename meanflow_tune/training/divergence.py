"""Whether the steps of a run were finite, found out without stopping for a device."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_tune.core.rows import HostCopy

# Steps that a device may be behind before one is read. The same on every rank, or those that read earlier
# would leave the others waiting in a collective.
LAG = 4


class Diverged(ArithmeticError):
    """A loss, gradient, sample or metric is not finite; says which, and when.

    step: number of optimiser steps before it; None where it is that of the run.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class _Step:
    """A step that is to be read; numbers: the norm of its gradient, and its loss."""

    step: int
    terms: Mapping[str, Tensor]
    numbers: HostCopy


class DivergenceCheck:
    """Raises Diverged for the first step whose gradient is not finite; batch: images per step.

    On the processor at that step. On a device LAG steps later, or at `settle`, which must come before
    anything that the steps gave is saved, reported or counted.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._unread: deque[_Step] = deque()
        self._newest: tuple[int, Tensor] | None = None

    def add(self, step: int, norm: Tensor, terms: Mapping[str, Tensor]) -> None:
        """The step after `step` others: the norm of its gradient, and its loss terms."""
        loss = terms["loss"]
        if norm.device.type == "cpu":
            self._read(step, terms, norm, loss)
            return
        numbers = HostCopy(torch.stack([norm.to(loss.dtype), loss]))
        self._unread.append(_Step(step, dict(terms), numbers))
        if len(self._unread) > LAG:
            self._read_oldest()

    def settle(self) -> None:
        """Read all steps so far."""
        while self._unread:
            self._read_oldest()

    def newest(self) -> tuple[int, float] | None:
        """Images seen after the newest step that was read, and its loss; None before any."""
        if self._newest is None:
            return None
        steps, loss = self._newest
        return steps * self._batch, float(loss)

    def _read_oldest(self) -> None:
        oldest = self._unread.popleft()
        norm, loss = oldest.numbers.read()
        self._read(oldest.step, oldest.terms, norm, loss)

    def _read(self, step: int, terms: Mapping[str, Tensor], norm: Tensor, loss: Tensor) -> None:
        if not torch.isfinite(norm):
            self._unread.clear()
            bad = [name for name, term in terms.items() if not torch.isfinite(term)]
            culprit = ", ".join(bad) if bad else "gradient"
            images = step * self._batch
            raise Diverged(f"{culprit} not finite at step {step} ({images} images)", step)
        self._newest = step + 1, loss
