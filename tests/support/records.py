"""Builders of trial records."""

from typing import Any

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
