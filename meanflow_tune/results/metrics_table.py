"""metrics.parquet: every number that was measured, one per row, with what it has to be compared with."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.files import write_atomic
from meanflow_tune.formats import FORMAT, KEY
from meanflow_tune.plan import confirm
from meanflow_tune.plan.confirm import Side
from meanflow_tune.plan.quality import Quality, quality_of
from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.search.analysis.significance import interval
from meanflow_tune.search.objectives import Objectives

if TYPE_CHECKING:
    import pandas as pd

# The columns, in this order, with their types in pandas; docs/results.md explains them.
COLUMNS = {
    "study": "str",
    "kind": "str",
    "trial": "Int64",
    "candidate": "Int64",
    "variant": "str",
    "baseline": "str",
    "status": "str",
    "seed": "Int64",
    "latent_seed": "Int64",
    "evaluation": "str",
    "repeat": "Int64",
    "images": "Int64",
    "is_last": "bool",
    "nfe": "Int64",
    "metric": "str",
    "value": "float64",
    "lower": "float64",
    "upper": "float64",
    "runs": "int64",
}
# What the figures of teacher, data and noise follow from.
COMPARED_WITH = ("data", "teacher", "guidance", "evaluation")
Fields = dict[str, Any]


class RunKinds:
    """The kind of a run: `trial` of the search, or of its confirmation `tuning` or `confirmation`."""

    def __init__(self, search_seed: int) -> None:
        self._tuning = confirm.tuning_seed(search_seed)

    def __call__(self, record: TrialRecord) -> str:
        if "/" not in record.study:  # which no name of a search contains
            return "trial"
        return "tuning" if record.params["seed"] == self._tuning else "confirmation"


def metrics_table(
    records: Sequence[TrialRecord],
    confirmed: Sequence[TrialRecord],
    objectives: Objectives,
    search_seed: int,
) -> "pd.DataFrame":
    """The columns of COLUMNS: rows of the runs, of means over fresh seeds, then of teacher, data and noise.

    records: of the search; confirmed: of its confirmation. A metric is called as in results.parquet, without
    its NFE; `objective.NAME` and `cost.NAME` are those of that table. lower and upper are those of a mean
    over fresh seeds.
    """
    import pandas as pd

    candidates = {record.number: record for record in records}
    kind_of = RunKinds(search_seed)
    rows: list[Fields] = []
    for record in records:
        rows += _rows_of_run(record, record, kind_of(record), objectives)
    for record in confirmed:
        candidate = candidates.get(int(record.params["candidate"]))
        rows += _rows_of_run(record, candidate, kind_of(record), objectives)
    rows += _rows_of_means(candidates, confirmed, objectives, search_seed)
    rows += _rows_compared_with([*records, *confirmed])
    columns = {
        name: pd.Series([row.get(name) for row in rows], dtype=kind)
        for name, kind in COLUMNS.items()
    }
    return pd.DataFrame(columns)


def write_metrics(
    path: Path,
    records: Sequence[TrialRecord],
    confirmed: Sequence[TrialRecord],
    objectives: Objectives,
    search_seed: int,
) -> None:
    """Write `metrics_table` as Parquet; a reader sees the old file or the new one, never a part."""
    table = metrics_table(records, confirmed, objectives, search_seed)
    table.attrs[KEY] = FORMAT
    write_atomic(path, lambda beside: table.to_parquet(beside, engine="pyarrow", index=False))


def _rows_of_run(
    record: TrialRecord, candidate: TrialRecord | None, kind: str, objectives: Objectives
) -> Iterator[Fields]:
    """Of each rung, and of the end of each repeat. candidate: the trial of the search that it trains."""
    shared = _setting(record) | {
        "kind": kind,
        "trial": record.number,
        "candidate": None if candidate is None else candidate.number,
        "variant": confirm.SWITCHED if confirm.SWITCHED in record.params else None,
        "baseline": None if candidate is None else candidate.baseline,
        "status": record.status,
        "runs": 1,
    }
    last = len(record.reports)
    for rung, report in enumerate((*record.reports, *record.repeats), start=1):
        own = report.repeat == 0
        place = {
            "seed": record.config.get("seed") if own else _seed_of_repeat(record, report.repeat),
            "repeat": report.repeat,
            "images": report.images,
            "is_last": own and rung == last,
        }
        stored = record.rung_values[rung - 1] if own and rung <= len(record.rung_values) else None
        for metric, value in _figures(report, objectives, stored).items():
            yield shared | place | _named(metric) | {"value": value}


def _rows_of_means(
    candidates: Mapping[int, TrialRecord],
    confirmed: Sequence[TrialRecord],
    objectives: Objectives,
    search_seed: int,
) -> Iterator[Fields]:
    """The means over fresh seeds that the final table shows, of every metric and every candidate."""
    tuning = confirm.tuning_seed(search_seed)
    tuned = {int(r.params["candidate"]) for r in confirmed if r.params["seed"] == tuning}
    numbers = dict.fromkeys(int(r.params["candidate"]) for r in confirmed)
    known = [candidates[number] for number in numbers if number in candidates]
    for candidate, switched in product(known, (False, True)):
        untuned = candidate.number in tuned
        side = Side(confirm.title(candidate), candidate, untuned, switched)
        found = confirm.runs_of(side, confirmed, objectives, search_seed)
        runs = [run for run in found if run.status == "completed" and run.reports]
        if not runs:
            continue
        shared = _setting(runs[0]) | {
            "kind": "confirmed",
            "candidate": candidate.number,
            "variant": confirm.SWITCHED if switched else None,
            "baseline": candidate.baseline,
            "images": runs[0].reports[-1].images,
            "is_last": True,
            "runs": len(runs),
        }
        each = [_figures(run.reports[-1], objectives) for run in runs]
        for metric in each[0]:
            values = [figures[metric] for figures in each if metric in figures]
            if len(values) == len(runs) and all(map(math.isfinite, values)):
                mean = interval(values)
                bounds = {"value": mean.mean, "lower": mean.low, "upper": mean.high}
                yield shared | _named(metric) | bounds


def _rows_compared_with(records: Iterable[TrialRecord]) -> Iterator[Fields]:
    """Of the teacher, the data and noise: once per study and evaluation, from the first trial with them."""
    known: set[tuple[str, str]] = set()
    for record in records:
        setting = _setting(record)
        key = setting["study"], setting["evaluation"]
        quality = Quality() if key in known else quality_of(record)
        if not quality:
            continue
        known.add(key)
        figures = {"teacher": quality.euler}
        names = {"teacher": "teacher_ode", "data": "data", "noise": "noise"}
        figures |= {names[of]: found for of, found in quality.held_out.items() if of in names}
        for kind, found in figures.items():
            for metric, value in sorted(found.items()):
                shared = setting | {"kind": kind, "is_last": True, "runs": 1}
                yield shared | _named(metric) | {"value": value}


def _setting(record: TrialRecord) -> Fields:
    """What runs share with what they are compared with."""
    evaluation = record.config.get("evaluation")
    if evaluation is None:
        return {"study": record.study, "latent_seed": None, "evaluation": None}
    parts = json.dumps([record.config.get(name) for name in COMPARED_WITH], sort_keys=True)
    return {
        "study": record.study,
        "latent_seed": evaluation.get("latent_seed"),
        "evaluation": hashlib.sha256(parts.encode()).hexdigest()[:12],
    }


def _figures(
    report: Report, objectives: Objectives, values: Sequence[float] | None = None
) -> dict[str, float]:
    """All that was measured, by the names of results.parquet. values: the objectives as stored."""
    if values is None:
        try:
            values = objectives.values(report)
        except ValueError:  # the report lacks a metric, or it is not finite
            values = ()
    names = (f"objective.{part}" for part in objectives.parts)
    found = dict(zip(names, values, strict=False))
    found |= dict(sorted(report.metrics.items()))
    return found | {f"cost.{name}": cost for name, cost in sorted(report.cost.items())}


def _named(metric: str) -> Fields:
    """`teacher_gap@2` is the metric teacher_gap at 2 function evaluations; objectives have no one NFE."""
    name, _, nfe = metric.rpartition("@")
    if name and nfe.isdigit() and not metric.startswith("objective."):
        return {"metric": name, "nfe": int(nfe)}
    return {"metric": metric, "nfe": None}


def _seed_of_repeat(record: TrialRecord, repeat: int) -> int | None:
    """The seed in the configuration that the repeat left; None where that was deleted."""
    path = Path(record.folder) / "repeats" / str(repeat) / "config.json"
    try:
        seed = json.loads(path.read_text(encoding="utf-8")).get("seed")
    except (OSError, ValueError, AttributeError):
        return None
    return seed if isinstance(seed, int) else None
