"""How often a factor was active among the trials that each rung stopped, and among those it let through."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meanflow_tune.records import TrialRecord

STOPPED = ("pruned", "paused")


@dataclass(frozen=True)
class Activity:
    """One rung. stopped, passed: proposed trials that ended or wait there, and that went beyond; *_with:
    those with the factor; ramping: stopped ones whose ramps were not over."""

    images: int
    stopped: int
    stopped_with: int
    passed: int
    passed_with: int
    ramping: int


def activity(
    records: Iterable[TrialRecord],
    has: Callable[[Mapping[str, Any]], bool],
    ramps_end: Callable[[Mapping[str, Any]], float],
) -> list[Activity]:
    """Of each rung but the last. Baselines are never stopped, and do not count.

    has: whether a configuration has the factor; ramps_end: the progress at which its ramps are over.
    """
    proposed = [record for record in records if record.baseline is None and record.reports]
    known = {record.number: has(record.config) for record in proposed}
    last = max((record.reports[-1].images for record in proposed), default=0)
    rungs = sorted({report.images for record in proposed for report in record.reports} - {last})
    found = []
    for images in rungs:
        there = [r for r in proposed if any(report.images == images for report in r.reports)]
        stopped = [r for r in there if r.status in STOPPED and r.reports[-1].images == images]
        passed = [r for r in there if r.reports[-1].images > images]
        ramping = [r for r in stopped if images < ramps_end(r.config) * _budget(r.config)]
        found.append(
            Activity(
                images,
                len(stopped),
                sum(known[r.number] for r in stopped),
                len(passed),
                sum(known[r.number] for r in passed),
                len(ramping),
            )
        )
    return [one for one in found if one.stopped]


def _budget(config: Mapping[str, Any]) -> float:
    return float(config["budget"]["images"])
