"""What the losses share: their ingredients, the ramp of a share, and the diagonal t = s.

Every identity has the form u = T(...), and T is behind a stop-gradient: a loss is a target.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from meanflow_tune.core.types import PathSample, expand_as
from meanflow_tune.settings import Settings


@dataclass(frozen=True)
class Ingredients:
    """What targets are made of, all detached; None is what no active loss needs.

    v_t = v(x_t, t), u = u(x_t, t, s), v_s = v(x_s, s), d_s = ∂_s u, d_t = D u, d_t_d_s = D ∂_s u:
    [B, *D]. Tri-consistency splits [t, s] at s - ds with ds = ρ (s - t): ratio is ρ [B] in (0, 1];
    x_split = x_{s - ds}, u_split = u(x_t, t, s - ds), and ode_velocity = (x_s - x_split) / ds, the
    teacher's mean velocity from x_split over [s - ds, s]: [B, *D].
    """

    path: PathSample
    v_t: Tensor
    u: Tensor
    v_s: Tensor | None = None
    d_s: Tensor | None = None
    d_t: Tensor | None = None
    d_t_d_s: Tensor | None = None
    x_split: Tensor | None = None
    u_split: Tensor | None = None
    ode_velocity: Tensor | None = None
    ratio: Tensor | None = None

    def given(self, name: str) -> Tensor:
        """The ingredient `name`; raises ValueError if it was left out."""
        tensor = getattr(self, name)
        if not isinstance(tensor, Tensor):
            raise ValueError(f"An active loss needs `{name}`, but Ingredients.{name} is None.")
        return tensor


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


class Loss(Settings):
    """Base of the family: an identity as a target for u, and its share in the mixed target.

    kind: its name in a mixture; needs: names of the Ingredients that its target uses, beyond path,
    v_t and u, which are always there.
    """

    needs: ClassVar[frozenset[str]]

    kind: str
    share: PositiveShare = 1.0
    ramp: Ramp = Ramp()

    def target(self, inputs: Ingredients) -> Tensor:
        """T [B, *D]: the identity where t < s, and its limit v_t (flow matching) where t = s."""
        target = self._target(inputs)
        return torch.where(expand_as(inputs.path.gap == 0, target), inputs.v_t, target)

    def residual(self, u: Tensor, inputs: Ingredients) -> Tensor:
        """u - T, unreduced [B, *D]; the gradient flows through u [B, *D] only."""
        target = self.target(inputs)
        if u.shape != target.shape:
            raise ValueError(f"u must have shape {tuple(target.shape)}, but got {tuple(u.shape)}.")
        return u - target

    @abstractmethod
    def _target(self, inputs: Ingredients) -> Tensor:
        """The identity's T [B, *D], whose rows with t = s are not used."""
