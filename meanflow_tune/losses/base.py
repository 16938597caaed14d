"""Base of the losses: a loss is an identity u = T(...), trained by ‖u - T‖².

Here are the inputs of the targets T, their parts, the ramp of a share, and the diagonal t = s.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from meanflow_tune.core.types import PathSample, expand_as
from meanflow_tune.settings import Member, Settings


@dataclass(frozen=True)
class TargetInputs:
    """The inputs of the targets; None is what no active loss needs.

    v_t = v(x_t, t), u = u(x_t, t, s), v_s = v(x_s, s), d_s = ∂_s u, d_t = D u, d_t_d_s = D ∂_s u:
    [B, *D]. Tri-consistency splits [t, s] with ds = ρ (s - t): ratio is ρ [B] in (0, 1]. At the end,
    at s - ds: u_split = u(x_t, t, s - ds), and ode_velocity = (x_s - x_{s-ds}) / ds, the mean velocity
    over [s - ds, s] from x_{s-ds}, by the teacher's ODE or the student: [B, *D]. At the start:
    u_after = u(x_t + ds v_t, t + ds, s) [B, *D]. directional_derivative [B, *D] replaces d_s and d_t
    of a mixture where only their sum is known (`LossMix.direction`).

    Only u, u_split, u_after and the derivatives may carry gradients, for losses without a
    stop-gradient.
    """

    path: PathSample
    v_t: Tensor
    u: Tensor
    v_s: Tensor | None = None
    d_s: Tensor | None = None
    d_t: Tensor | None = None
    d_t_d_s: Tensor | None = None
    directional_derivative: Tensor | None = None
    u_split: Tensor | None = None
    ode_velocity: Tensor | None = None
    u_after: Tensor | None = None
    ratio: Tensor | None = None

    def given(self, name: str) -> Tensor:
        """The input `name`; raises ValueError if it was left out."""
        tensor = getattr(self, name)
        if not isinstance(tensor, Tensor):
            raise ValueError(f"An active loss needs `{name}`, but TargetInputs.{name} is None.")
        return tensor


@dataclass(frozen=True)
class TargetParts:
    """A target T = velocity + first + second, each [B, *D]; None is zero.

    velocity is made of velocities; first and second are the corrections by first- and second-order
    derivatives of u, or by their differences. On a true flow map they sum to u - velocity.
    """

    velocity: Tensor
    first: Tensor | None = None
    second: Tensor | None = None

    @property
    def correction(self) -> Tensor | None:
        """first + second, None where there is neither."""
        if self.first is None or self.second is None:
            return self.second if self.first is None else self.first
        return self.first + self.second

    def detach(self) -> "TargetParts":
        """The same numbers without gradient."""
        first, second = self.first, self.second
        return TargetParts(
            self.velocity.detach(),
            None if first is None else first.detach(),
            None if second is None else second.detach(),
        )


class Ramp(Settings):
    """The factor of a share: 0 up to progress `start`, then rising linearly to 1 over `length`.

    The default, without length, is 1 throughout.
    """

    start: float = Field(0.0, ge=0.0, lt=1.0)
    length: float = Field(0.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.start > 0.0 and self.length == 0.0:
            raise ValueError(
                "a ramp that starts late must have a length > 0, "
                f"but got (start={self.start}, length={self.length})."
            )
        return self

    def weight(self, progress: float) -> float:
        """The factor in [0, 1] at `progress` in [0, 1]."""
        if self.length == 0.0:
            return 1.0
        return min(1.0, max(0.0, (progress - self.start) / self.length))


def _not_zero(share: float) -> float:
    if share == 0.0:
        raise ValueError(f"`share != 0` must hold, but got ({share=}); leave the loss out instead.")
    return share


PositiveShare = Annotated[float, Field(gt=0.0, le=10.0)]
SignedShare = Annotated[float, Field(ge=-10.0, le=10.0), AfterValidator(_not_zero)]


_FROM_U = frozenset({"d_s", "d_t", "d_t_d_s", "u_split", "u_after"})


class Loss(Member):
    """Base of the family: an identity as a target for u, and its share in a mixture.

    kind: its name in a mixture. stop_gradient: whether the target is a constant; if not, gradients
    flow through u and its derivatives in the target, never through x_s and velocities.
    """

    share: PositiveShare = 1.0
    ramp: Ramp = Ramp()
    stop_gradient: bool = True

    @model_validator(mode="after")
    def _has_a_gradient_to_stop(self) -> Self:
        if not self.stop_gradient and not self.needs & _FROM_U:
            raise ValueError(
                f"the target of {self.kind} does not depend on u, so that there is no gradient to "
                "let through; leave stop_gradient true."
            )
        return self

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """Names of the TargetInputs that the target uses, beyond path, v_t and u, always there."""

    def parts(self, inputs: TargetInputs) -> TargetParts:
        """The target in parts, detached under a stop-gradient; rows with t = s are not meaningful."""
        parts = self._parts(inputs)
        return parts.detach() if self.stop_gradient else parts

    def target(self, inputs: TargetInputs) -> Tensor:
        """T [B, *D]: the identity where t < s, and its limit v_t (flow matching) where t = s."""
        return assemble(self.parts(inputs), inputs)

    def residual(self, u: Tensor, inputs: TargetInputs) -> Tensor:
        """u - T, unreduced [B, *D], for u [B, *D]."""
        target = self.target(inputs)
        if u.shape != target.shape:
            raise ValueError(f"u must have shape {tuple(target.shape)}, but got {tuple(u.shape)}.")
        return u - target

    @abstractmethod
    def _parts(self, inputs: TargetInputs) -> TargetParts:
        """The identity's T in parts [B, *D], whose rows with t = s are not used."""


def assemble(parts: TargetParts, inputs: TargetInputs) -> Tensor:
    """T [B, *D] from its parts, v_t on the diagonal t = s."""
    correction = parts.correction
    target = parts.velocity if correction is None else parts.velocity + correction
    return torch.where(expand_as(inputs.path.gap == 0, target), inputs.v_t, target)
