"""Where x_s comes from, and how velocities are guided. Times: noise at 0, data at 1."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from meanflow_tune.losses import Solver
from meanflow_tune.settings import Settings

Unit = Annotated[float, Field(ge=0.0, le=1.0)]


class StudentJump(Settings):
    """x_s = x_t + Δ·sg[u]: one evaluation, and off the trajectory while the student is wrong."""

    kind: Literal["student_jump"] = "student_jump"

    def teacher_share(self, progress: float) -> float:
        """The share of a batch whose x_s comes from the teacher's ODE at this progress: none."""
        return 0.0


class TeacherOde(Settings):
    """x_s by the teacher's ODE from x_t: on the trajectory, at the cost of its evaluations."""

    kind: Literal["teacher_ode"] = "teacher_ode"
    solver: Solver = Solver(method="heun", steps=2)

    def teacher_share(self, progress: float) -> float:
        """The share of a batch whose x_s comes from the teacher's ODE at this progress: all."""
        return 1.0


class Annealed(Settings):
    """The teacher's ODE for a share of the batch that falls linearly from 1 to 0 at progress `until`."""

    kind: Literal["annealed"] = "annealed"
    solver: Solver = Solver(method="heun", steps=2)
    until: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5

    def teacher_share(self, progress: float) -> float:
        """The share of a batch whose x_s comes from the teacher's ODE at this progress."""
        return max(0.0, 1.0 - progress / self.until)


XSource = Annotated[StudentJump | TeacherOde | Annealed, Field(discriminator="kind")]


class Guidance(Settings):
    """Classifier-free guidance baked into the learned velocity, for t in [t_start, t_end].

    There v_uncond + scale (v_cond - v_uncond) replaces v_cond, so that a student samples with
    guidance at one evaluation per step. scale = 1 is no guidance.
    """

    scale: Annotated[float, Field(ge=0.0, le=20.0)]
    t_start: Unit = 0.0
    t_end: Unit = 1.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.t_start < self.t_end:
            raise ValueError(
                "`guidance.t_start < guidance.t_end` must hold, but got "
                f"{self.t_start:g} and {self.t_end:g}."
            )
        return self

    def rows(self, t: Tensor) -> Tensor:
        """Indices of the samples whose time t [B] lies within the interval."""
        return ((t >= self.t_start) & (t <= self.t_end)).nonzero().squeeze(1)
