"""Builders of records as a study holds them."""

from meanflow_tune.records import Report, Status, TrialRecord


def record(
    number: int,
    status: Status,
    value: float | None,
    images: int = 100,
    baseline: str | None = None,
    seed: int = 0,
    **metrics: float,
) -> TrialRecord:
    report = Report(images=images, metrics={"gap@1": value or 0.0, **metrics}, cost={}, time=0.0)
    return TrialRecord(
        study="s",
        number=number,
        status=status,
        params={},
        config={"seed": seed},
        value=value,
        baseline=baseline,
        reports=() if value is None else (report,),
        reason="",
        attempt=0,
        folder="",
        started=None,
        ended=None,
    )
