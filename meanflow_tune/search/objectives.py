"""Objectives of a search: numbers from the metrics of a report, never a training loss."""

import math
import re
from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import ValidationError, field_validator

from meanflow_tune.records import Report
from meanflow_tune.search.errors import one_line
from meanflow_tune.settings import Settings

Combine = Literal["geometric_mean", "mean"]
Direction = Literal["minimize", "maximize"]

COST = "cost"  # gpu_seconds, else cpu_seconds, of the report
_METRIC = re.compile(r"[a-z][a-z0-9_]*@[1-9][0-9]*")
_COMBINED = re.compile(r"\s*(?P<combine>[a-z_]+)\s*\((?P<metrics>[^()]*)\)\s*")


class SearchObjective(Settings):
    """metrics: names with their NFE, such as `teacher_gap@1`; combine: how several become one number.

    The geometric mean compares relative changes, so that metrics of different scale count equally.
    """

    metrics: tuple[str, ...] = ("teacher_gap@1", "teacher_gap@2", "teacher_gap@4")
    combine: Combine = "geometric_mean"
    direction: Direction = "minimize"

    @field_validator("metrics")
    @classmethod
    def _names(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        if not metrics:
            raise ValueError("metrics must name at least one metric, such as teacher_gap@1")
        for name in metrics:
            if name.startswith("loss"):
                raise ValueError(
                    f"metric {name!r} is a training loss, and losses do not rank trials; name a"
                    " metric with its NFE, such as teacher_gap@1"
                )
            if name != COST and not _METRIC.fullmatch(name):
                raise ValueError(
                    f"metric {name!r} must be NAME@NFE, such as teacher_gap@1: quality depends on"
                    " the number of function evaluations"
                )
        if len(set(metrics)) < len(metrics):
            raise ValueError(f"metrics must differ from each other, but got {', '.join(metrics)}")
        return metrics

    @classmethod
    def parse(cls, text: str, direction: Direction = "minimize") -> "SearchObjective":
        """Read `teacher_gap@1` or `geometric_mean(teacher_gap@1,teacher_gap@2)`.

        Raises:
            ValueError: the text is neither, or has a loss or a metric without its NFE.
        """
        match = _COMBINED.fullmatch(text)
        combine, names = (match["combine"], match["metrics"]) if match else (None, text)
        if combine not in (None, *get_args(Combine)):
            raise ValueError(
                f"objective {text!r} combines by {combine!r}; known: geometric_mean, mean"
            )
        fields = {
            "metrics": tuple(name.strip() for name in names.split(",")),
            "combine": combine or "geometric_mean",
            "direction": direction,
        }
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise ValueError(f"objective {text!r}: {one_line(error)}") from None

    def __str__(self) -> str:
        """The text that `parse` reads back."""
        if len(self.metrics) == 1:
            return self.metrics[0]
        return f"{self.combine}({','.join(self.metrics)})"

    def value(self, metrics: Mapping[str, float]) -> float:
        """The objective of one report's `measures`.

        Raises:
            ValueError: a metric is missing or not finite, or negative under the geometric mean.
        """
        values = []
        for name in self.metrics:
            if name not in metrics:
                raise ValueError(
                    f"metric {name!r} of the objective was not reported; reported were"
                    f" {', '.join(sorted(metrics)) or 'none'}"
                )
            if not math.isfinite(metrics[name]):
                raise ValueError(
                    f"metric {name!r} of the objective must be finite, but is {metrics[name]}; a"
                    " trial with such a metric ends as diverged"
                )
            values.append(metrics[name])
        if len(values) == 1:
            return float(values[0])
        if self.combine == "mean":
            return math.fsum(values) / len(values)
        if min(values) < 0:
            raise ValueError(f"a geometric mean needs metrics >= 0, but got {values}")
        if min(values) == 0:
            return 0.0
        return math.exp(math.fsum(math.log(value) for value in values) / len(values))


class Objectives(Settings):
    """One objective or several, each with its own direction; values are tuples in this order."""

    parts: tuple[SearchObjective, ...]

    @field_validator("parts")
    @classmethod
    def _distinct(cls, parts: tuple[SearchObjective, ...]) -> tuple[SearchObjective, ...]:
        if not parts:
            raise ValueError("objectives must name at least one, such as teacher_gap@1")
        names = [str(part) for part in parts]
        if len(set(names)) < len(names):
            raise ValueError(f"objectives must differ from each other, but got {', '.join(names)}")
        return parts

    @classmethod
    def of(cls, objective: "SearchObjective | Objectives") -> "Objectives":
        """A single objective as a tuple of one."""
        return objective if isinstance(objective, Objectives) else cls(parts=(objective,))

    @classmethod
    def parse(cls, text: str) -> "Objectives":
        """Read `teacher_gap@1,teacher_gap@4,cost`, all minimised.

        A comma inside parentheses belongs to a combination: `mean(a@1,a@2),cost`.

        Raises:
            ValueError: one of them is not an objective, or two are the same.
        """
        parts = [part.strip() for part in re.split(r",(?![^()]*\))", text)]
        try:
            return cls(parts=tuple(SearchObjective.parse(part) for part in parts))
        except ValidationError as error:
            raise ValueError(f"objectives {text!r}: {one_line(error)}") from None

    @property
    def single(self) -> SearchObjective | None:
        """The objective where there is only one."""
        return self.parts[0] if len(self.parts) == 1 else None

    @property
    def directions(self) -> tuple[Direction, ...]:
        return tuple(part.direction for part in self.parts)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics of the objectives, without `cost`."""
        found = dict.fromkeys(name for part in self.parts for name in part.metrics)
        return tuple(name for name in found if name != COST)

    def __str__(self) -> str:
        """The text that `parse` reads back."""
        return ",".join(str(part) for part in self.parts)

    def values(self, report: Report) -> tuple[float, ...]:
        """The objectives of one report. Raises ValueError as `SearchObjective.value` does."""
        found = measures(report)
        return tuple(part.value(found) for part in self.parts)


def measures(report: Report) -> dict[str, float]:
    """What objectives may use: the metrics, and `cost` in GPU seconds, else CPU seconds."""
    for name in ("gpu_seconds", "cpu_seconds"):
        if name in report.cost:
            return report.metrics | {COST: report.cost[name]}
    return dict(report.metrics)
