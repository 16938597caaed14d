"""A search as files: results.parquet, one row a trial and rung, and best.json."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.config import flatten
from meanflow_tune.files import write_atomic
from meanflow_tune.records import Report, TrialRecord

if TYPE_CHECKING:
    import pandas as pd

# The columns of every file, in this order, with their types.
FIXED = {
    "study": "str",
    "number": "int64",
    "status": "str",
    "baseline": "str",
    "attempt": "int64",
    "terms": "int64",
    "rung": "int64",
    "images": "int64",
    "is_last": "bool",
    "value": "float64",
    "reason": "str",
    "time": "float64",
    "started": "float64",
    "ended": "float64",
    "folder": "str",
}


def results_table(
    records: Sequence[TrialRecord],
    objective: Callable[[Mapping[str, float]], float] | None = None,
) -> "pd.DataFrame":
    """One row a trial and rung, ascending in both.

    rung counts from 1, and is 0 (with 0 images) for a trial that has not reported. Columns: those
    of FIXED; metrics by their names; `cost.NAME`; `param.NAME` (searched parameters);
    `config.DOTTED.PATH` (resolved configuration). value: the objective, at earlier rungs
    `objective` of the metrics, NaN without it. A column's type depends on which values the search
    has, not on their order: integers Int64, other numbers float64, booleans, all else text.
    """
    import pandas as pd

    rows = [row for record in records for row in _rows(record, objective)]
    extra = sorted({name for row in rows for name in row} - FIXED.keys(), key=_place)
    columns = {
        name: pd.Series([row[name] for row in rows], dtype=kind) for name, kind in FIXED.items()
    }
    columns |= {name: _column([row.get(name) for row in rows]) for name in extra}
    return pd.DataFrame(columns)


def write_results(
    path: Path,
    records: Sequence[TrialRecord],
    objective: Callable[[Mapping[str, float]], float] | None = None,
) -> None:
    """Write `results_table` as Parquet; a reader sees the old file or the new one, never a part."""
    table = results_table(records, objective)
    write_atomic(path, lambda beside: table.to_parquet(beside, engine="pyarrow", index=False))


def write_best(path: Path, record: TrialRecord) -> None:
    """Write the trial's configuration, which `scripts/train.py --config` runs as it is; atomic."""
    write_atomic(path, json.dumps(record.config, indent=2) + "\n")


def _rows(
    record: TrialRecord, objective: Callable[[Mapping[str, float]], float] | None
) -> list[dict[str, Any]]:
    shared: dict[str, Any] = {
        "study": record.study,
        "number": record.number,
        "status": record.status,
        "baseline": record.baseline,
        "attempt": record.attempt,
        "terms": record.terms,
        "reason": record.reason,
        "started": record.started,
        "ended": record.ended,
        "folder": record.folder,
    }
    shared |= {f"param.{name}": value for name, value in record.params.items()}
    shared |= {f"config.{name}": value for name, value in flatten(record.config).items()}
    if not record.reports:
        return [
            shared | {"rung": 0, "images": 0, "is_last": True, "value": record.value, "time": None}
        ]
    last = len(record.reports)
    return [
        shared | _measured(report, rung, rung == last, record.value, objective)
        for rung, report in enumerate(record.reports, start=1)
    ]


def _measured(
    report: Report,
    rung: int,
    is_last: bool,
    value: float | None,
    objective: Callable[[Mapping[str, float]], float] | None,
) -> dict[str, Any]:
    if not is_last:
        value = None if objective is None else objective(report.metrics)
    costs = {f"cost.{name}": cost for name, cost in report.cost.items()}
    fixed = {"rung": rung, "images": report.images, "is_last": is_last, "value": value}
    return {**report.metrics, **costs, **fixed, "time": report.time}


def _place(name: str) -> tuple[int, str]:
    """Metrics first, then costs, searched parameters and the configuration."""
    for place, prefix in enumerate(("cost.", "param.", "config."), start=1):
        if name.startswith(prefix):
            return place, name
    return 0, name


def _column(values: list[Any]) -> "pd.Series[Any]":
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean")
    if kinds == {int}:
        return pd.Series(values, dtype="Int64")
    if kinds <= {int, float} and kinds:
        return pd.Series(values, dtype="float64")
    texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    return pd.Series(texts, dtype="str")
