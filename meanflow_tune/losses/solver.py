"""How a loss integrates the teacher's ODE."""

from typing import Literal

from pydantic import Field

from meanflow_tune.settings import Settings


class Solver(Settings):
    """`steps` equal steps of `method` over an interval; evaluations a step: 1, 2 and 4."""

    method: Literal["euler", "heun", "rk4"] = "rk4"
    steps: int = Field(16, ge=1)
