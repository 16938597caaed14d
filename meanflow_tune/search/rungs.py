"""Asynchronous successive halving as a pure function of the values that the study holds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from meanflow_tune.settings import Settings


@dataclass(frozen=True)
class Verdict:
    """Whether a trial goes on after a rung, and why, in one sentence for a person."""

    go_on: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return {"go_on": self.go_on, "reason": self.reason}


class Rungs(Settings):
    """At every rung the best 1/reduction of the trials go on (Li et al., "A System for Massively
    Parallel Hyperparameter Tuning", 2020, without promotions: a stopped trial stays stopped).

    min_peers: with fewer values than this at a rung, every trial goes on.
    """

    reduction: float = Field(default=3.0, gt=1.0)
    min_peers: int = Field(default=3, ge=1)

    def decide(
        self,
        values_at_rung: Sequence[float],
        value: float,
        protected: bool = False,
        direction: Literal["minimize", "maximize"] = "minimize",
    ) -> Verdict:
        """Judge a trial with `value` among values_at_rung, which contains its own.

        Ties go on; so do protected trials (baselines), whose values count for the others.

        Raises:
            ValueError: value is not among values_at_rung.
        """
        if value not in values_at_rung:
            raise ValueError(f"values_at_rung must contain the trial's own value {value}")
        count = len(values_at_rung)
        better = sum(
            other < value if direction == "minimize" else other > value for other in values_at_rung
        )
        place = f"place {better + 1} of {count} at this rung with {value:.6g}"
        needed = max(self.min_peers, math.ceil(self.reduction))
        if protected:
            return Verdict(True, f"{place}; a baseline is never stopped")
        if count < needed:
            return Verdict(True, f"{place}; nothing is stopped before {needed} values")
        keep = max(1, math.floor(count / self.reduction))
        if better < keep:
            return Verdict(True, f"{place}; the best {keep} go on")
        return Verdict(False, f"{place}; only the best {keep} go on")
