"""Fixed-step solver settings of the teacher's ODE, dx/dt = v(x, t)."""

from typing import Literal

from pydantic import Field

from meanflow_tune.settings import Settings


class Solver(Settings):
    """`steps` equal steps of `method` over an interval; evaluations per step: 1, 2 and 4."""

    method: Literal["euler", "heun", "rk4"] = "rk4"
    steps: int = Field(16, ge=1)
