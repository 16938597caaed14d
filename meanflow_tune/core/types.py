"""Central types. Legend of shapes: B batch, *D dimensions of one sample, t and s in [0, 1] of shape [B].

Noise is at time 0 and data at time 1; a pair of times always has 0 <= t <= s <= 1.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class TimePair:
    """Start times t and end times s, both [B] with 0 <= t <= s <= 1."""

    t: Tensor
    s: Tensor

    @property
    def gap(self) -> Tensor:
        """Δ = s - t, [B]."""
        return self.s - self.t


@dataclass(frozen=True)
class Columns:
    """What decides which rows of a batch get which pass, each [B], in the processor's memory.

    The numbers of the fields of the same names of PathSample.
    """

    t: Tensor
    s: Tensor
    label: Tensor | None = None
    uniform_draw: Tensor | None = None
    ode_draw: Tensor | None = None

    @property
    def gap(self) -> Tensor:
        """Δ = s - t, [B]."""
        return self.s - self.t


@dataclass(frozen=True)
class PathSample:
    """A point of the training path x_t = (1 - t) x_0 + t x_1 with its times.

    x_0 (noise), x_1 (data), x_t, v_t: [B, *D]; t, s: [B]; label: [B] int64, or None without classes.
    v_t = x_1 - x_0 is the *conditional* velocity; a teacher's velocity replaces it in distillation.
    uniform_draw, ode_draw: [B] in [0, 1), spread evenly over a global batch and independent of all
    else: the rows with a second-order pass, and those whose x_s comes from the teacher's ODE, are those
    with a draw below a share. None where that share is 0 or 1 throughout. row: [B] int64, of the global
    batch, with the seed of its masks of dropout; None without dropout.

    columns: where the path is on another device than the processor, the numbers that are needed in the
    processor's memory too; the two draws may then be there only. `core.rows.columns_of` reads them.
    """

    x_0: Tensor
    x_1: Tensor
    x_t: Tensor
    v_t: Tensor
    t: Tensor
    s: Tensor
    label: Tensor | None
    uniform_draw: Tensor | None = None
    ode_draw: Tensor | None = None
    columns: Columns | None = None
    row: Tensor | None = None
    dropout_seed: int = 0

    @property
    def gap(self) -> Tensor:
        """Δ = s - t, [B]."""
        return self.s - self.t


@dataclass(frozen=True)
class VelocityJet:
    """u(x_t, t, s) with the derivatives that the second-order identities need, each [B, *D].

    d_s = ∂_s u at fixed (x_t, t); d_t = D u = ∂_t u + (∂_x u) v, the total derivative along the
    trajectory; d_t_d_s = D ∂_s u = ∂_s D u.
    """

    u: Tensor
    d_s: Tensor
    d_t: Tensor
    d_t_d_s: Tensor


@dataclass(frozen=True)
class LossOutput:
    """loss: scalar with gradient; terms: detached scalars, for logging only, never optimised."""

    loss: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class DataSplit:
    """A data set in memory, scaled to [-1, 1] where it is made of images.

    train_x, held_out_x: [N, *D] and [M, *D] float32; train_label, held_out_label: int64, or None.
    classes: number of classes, or None; fingerprint: hash of the content, which names caches.
    """

    train_x: Tensor
    train_label: Tensor | None
    held_out_x: Tensor
    held_out_label: Tensor | None
    classes: int | None
    fingerprint: str

    @property
    def shape(self) -> tuple[int, ...]:
        """*D, the shape of one sample."""
        return tuple(self.train_x.shape[1:])


class AverageVelocity(Protocol):
    """u(x_t, t, s): x [B, *D], t and s [B], label [B] or None, gives [B, *D]."""

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor: ...


class Velocity(Protocol):
    """v(x_t, t): x [B, *D], t [B], label [B] or None, gives [B, *D]."""

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor: ...


def expand_as(time: Tensor, x: Tensor) -> Tensor:
    """View time [B] as [B, 1, ..., 1], so that it multiplies x [B, *D]."""
    return time.reshape(-1, *([1] * (x.dim() - 1)))
