"""Builders of trial records."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from meanflow_tune.records import Report, Status, TrialRecord


def build_record(
    number: int, status: Status = "completed", *reports: Report, **fields: Any
) -> TrialRecord:
    """A record with these reports and fields; parameters and configuration are empty otherwise."""
    empty: dict[str, Any] = {"study": "s", "params": {}, "config": {}}
    return TrialRecord(number=number, status=status, reports=reports, **(empty | fields))


def record(
    number: int,
    status: Status,
    value: float | None,
    images: int = 100,
    baseline: str | None = None,
    seed: int = 0,
    **metrics: float,
) -> TrialRecord:
    """A record with one report, of the metric gap@1 = value and `metrics`; None for no report."""
    metrics = {"gap@1": value or 0.0, **metrics}
    reports = () if value is None else (Report(images, metrics, {}, 0.0),)
    fields = {"config": {"seed": seed}, "value": value, "baseline": baseline}
    return build_record(number, status, *reports, **fields)


def with_samples(
    made: TrialRecord,
    path: Path,
    euler: Mapping[str, float],
    held_out: Mapping[str, Mapping[str, float]] | None = None,
    nfe: Sequence[int] = (1,),
) -> TrialRecord:
    """The record with a file of samples at its last rung; held_out None: as before it was recorded."""
    arrays = {"latents": np.zeros((4, 2)), "teacher_metrics": np.array(json.dumps(dict(euler)))}
    if held_out is not None:
        arrays["held_out_metrics"] = np.array(json.dumps(dict(held_out)))
    for n in nfe:
        arrays |= {f"student@{n}": np.full((4, 2), 0.1 * made.number)}
        arrays |= {f"teacher@{n}": np.zeros((4, 2))} if euler else {}
    with open(path, "wb") as handle:
        np.savez(handle, **arrays)  # type: ignore[arg-type]
    last = replace(made.reports[-1], artifacts={"samples": str(path)})
    return replace(made, reports=(*made.reports[:-1], last))
