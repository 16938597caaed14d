"""A search as files: results.parquet, one row per trial and rung, and best.json."""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.config.overrides import flatten
from meanflow_tune.files import write_atomic
from meanflow_tune.formats import FORMAT, KEY
from meanflow_tune.records import Report, TrialRecord

if TYPE_CHECKING:
    import pandas as pd

# All objectives of one report, in the order of their names.
Values = Callable[[Report], Sequence[float]]
# Of which kind a run is: `trial`, or of a confirmation.
KindOf = Callable[[TrialRecord], str]

# The columns of every file, in this order, with their types; docs/results.md explains them.
FIXED = {
    "study": "str",
    "kind": "str",
    "number": "int64",
    "status": "str",
    "baseline": "str",
    "attempt": "int64",
    "enqueued": "bool",
    "protected": "bool",
    "bracket": "int64",
    "repeat": "int64",
    "terms": "int64",
    "rung": "int64",
    "images": "int64",
    "is_last": "bool",
    "value": "float64",
    "decision": "str",
    "reason": "str",
    "time": "float64",
    "started": "float64",
    "ended": "float64",
    "folder": "str",
}


def results_table(
    records: Sequence[TrialRecord],
    objectives: Sequence[str] = ("objective",),
    values: Values | None = None,
    kind_of: KindOf = lambda record: "trial",
) -> "pd.DataFrame":
    """One row per trial and rung, ascending in both, plus one per repeat on another seed.

    rung counts from 1, and is 0 (with 0 images) for a trial that has not reported; repeat is 0 for the
    trial's own run, whose last row is_last; decision: why the trial continued from there, or did not.
    Columns: those of FIXED; `objective.NAME` of several objectives; metrics by their names;
    `cost.NAME`; `param.NAME` (searched parameters); `config.DOTTED.PATH` (resolved configuration).

    objectives: their names; values: all of them in a report; kind_of: the kind of a record's run. value is
    the one objective, NaN where there are several; without `values` only the last rung has any. A column's
    type depends on which values the search has, not on their order: integers Int64, other numbers float64,
    booleans, all else text.
    """
    import pandas as pd

    rows = [row for record in records for row in _rows(record, kind_of(record), objectives, values)]
    extra = sorted({name for row in rows for name in row} - FIXED.keys(), key=_place)
    columns = {
        name: pd.Series([row[name] for row in rows], dtype=kind) for name, kind in FIXED.items()
    }
    columns |= {name: _column([row.get(name) for row in rows]) for name in extra}
    return pd.DataFrame(columns)


def write_results(
    path: Path,
    records: Sequence[TrialRecord],
    objectives: Sequence[str] = ("objective",),
    values: Values | None = None,
    kind_of: KindOf = lambda record: "trial",
) -> None:
    """Write `results_table` as Parquet; a reader sees the old file or the new one, never a part."""
    table = results_table(records, objectives, values, kind_of)
    table.attrs[KEY] = FORMAT
    write_atomic(path, lambda beside: table.to_parquet(beside, engine="pyarrow", index=False))


def write_best(path: Path, record: TrialRecord) -> None:
    """Write the trial's configuration, which `scripts/train.py --config` runs as it is; atomic."""
    write_atomic(path, json.dumps(record.config, indent=2) + "\n")


def _rows(
    record: TrialRecord, kind: str, objectives: Sequence[str], values: Values | None
) -> list[dict[str, Any]]:
    shared = {f.name: getattr(record, f.name) for f in fields(record) if f.name in FIXED}
    shared["kind"] = kind
    shared |= {f"param.{name}": value for name, value in record.params.items()}
    shared |= {f"config.{name}": value for name, value in flatten(record.config).items()}
    if not record.reports:
        nothing = {"repeat": 0, "rung": 0, "images": 0, "is_last": True}
        return [shared | nothing | {"value": record.value, "decision": None, "time": None}]
    last = len(record.reports)
    decisions = dict(enumerate(record.decisions, start=1))
    rows = []
    for rung, report in enumerate(record.reports, start=1):
        found = values(report) if values is not None else ()
        if rung <= len(record.rung_values):  # as the study holds it
            found = record.rung_values[rung - 1]
        elif rung == last:
            found = record.values or ((record.value,) if record.value is not None else ())
        place = {"rung": rung, "is_last": rung == last, "decision": decisions.get(rung)}
        rows.append(shared | _measured(report, objectives, found) | place)
    for report in record.repeats:
        found = values(report) if values is not None else ()
        place = {"rung": last, "is_last": False, "decision": None}
        rows.append(shared | _measured(report, objectives, found) | place)
    return rows


def _measured(report: Report, objectives: Sequence[str], values: Sequence[float]) -> dict[str, Any]:
    costs = {f"cost.{name}": cost for name, cost in report.cost.items()}
    value = values[0] if len(values) == 1 else None
    fixed = {"repeat": report.repeat, "images": report.images, "value": value, "time": report.time}
    names = [f"objective.{name}" for name in objectives]
    several = dict(zip(names, values, strict=True)) if len(values) > 1 else {}
    return {**several, **report.metrics, **costs, **fixed}


def _place(name: str) -> tuple[int, str]:
    """Objectives first, then metrics, costs, searched parameters and the configuration."""
    for place, prefix in enumerate(("objective.", "", "cost.", "param.", "config.")):
        if prefix and name.startswith(prefix):
            return place, name
    return 1, name


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
