"""What MLflow lacks of a study: the events that were applied, compared with the runs that are there.

A server can come back with an older database or an empty one, and anybody can delete runs. Each run
carries the receipts of its events (`EVENTS_TAG`), so that a comparison takes no call per run; parameters,
metrics, states and parents are compared besides.
"""

import hashlib
import math
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from meanflow_tune.tracking.outbox import Event
from meanflow_tune.tracking.replay import Audit
from meanflow_tune.tracking.run_names import metric_values, names
from meanflow_tune.tracking.run_tree import (
    REPEAT_TAG,
    SEARCH_TAG,
    TRIAL_TAG,
    most_written,
    report_metrics,
    trial_params,
)

EVENTS_TAG = "meanflow_tune.events"
PARENT_TAG = "mlflow.parentRunId"
SETTLED = "trials_settled"  # about many runs: applied again after any of them was put again
_ENDED = ("FINISHED", "FAILED", "KILLED")


def receipt(event: Event) -> str:
    """Identifies an event among those of its run; the same after the outbox was written anew."""
    name = event.key or f"{event.kind}/{event.time}"
    return hashlib.sha256(name.encode()).hexdigest()[:6]


def subject(event: Event) -> str:
    """The tag's value of the run that an event is about, the search's own or a trial's."""
    trial = event.payload.get("trial")
    return event.payload["uid"] if trial is None else f"{event.payload['uid']}/{trial}"


@dataclass
class _Expected:
    """A run as its events made it. parts: events of runs of their own below it, the repeats."""

    events: list[Event] = field(default_factory=list)
    params: set[str] = field(default_factory=set)
    metrics: dict[str, int] = field(default_factory=dict)  # name -> last step
    state: str | None = None
    model: bool = False
    parts: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        p = event.payload
        self.events.append(event)
        self.model |= p.get("model") is not None
        if event.kind in ("trial_started", "search_started"):
            self.state = "running"
        if event.kind == "trial_started":
            self.params |= set(names(trial_params(p)).values())
        elif event.kind == "reported":
            self.metrics |= _metrics(p)
        elif event.kind == "repeated":
            self.parts[f"{subject(event)}/{p['report']['repeat']}"] = _metrics(p)
        elif event.kind == "trial_paused":
            self.state = "paused"
        elif event.kind == "trial_ended":
            self.state = p["status"]
        elif event.kind == "search_ended":
            self.state = p["summary"]["status"]

    def lacking(
        self, runs: dict[str, Any], own: str, parent: str | None, refused: Collection[int]
    ) -> list[Event]:
        """The events to apply once more: those that were refused, or all if anything else is missing."""
        run = runs.get(own)
        if run is None:
            return self.events
        receipts = run.data.tags.get(EVENTS_TAG, "").split()
        missing = [event for event in self.events if receipt(event) not in receipts]
        if missing and all(event.seq in refused for event in missing):
            return missing
        ended = self.state not in (None, "running", "paused")
        closed = run.info.status in _ENDED
        whole = (
            not missing
            and self.params <= run.data.params.keys()
            and _holds(run, self.metrics)
            and self.state in (None, run.data.tags.get("state"))
            and (closed or not ended)
            and (not self.model or bool(run.outputs and run.outputs.model_outputs))
            and parent in (None, run.data.tags.get(PARENT_TAG))
            and all(name in runs and _holds(runs[name], m) for name, m in self.parts.items())
        )
        return [] if whole else self.events


def compare(events: Iterable[Event], found: Iterable[Any], refused: Collection[int]) -> Audit:
    """events: that were applied; found: the experiment's runs; refused: events that MLflow does not take."""
    expected: dict[str, _Expected] = {}
    settled: Event | None = None
    for event in events:
        if not event.kind or "uid" not in event.payload:
            continue
        if event.kind == SETTLED:
            settled = event
            for trial, told in event.payload["trials"].items():
                known = expected.get(f"{event.payload['uid']}/{trial}")
                if known is not None:
                    known.state = told["tags"]["state"]
            continue
        run = expected.setdefault(subject(event), _Expected())
        with suppress(KeyError, TypeError, ValueError):  # a damaged event, which is refused
            run.add(event)
    runs = _by_tag(found)
    again: list[Event] = []
    absent = torn = 0
    for own, run in expected.items():
        search = own.partition("/")[0]
        parent = None
        if own != search:
            parent = runs[search].info.run_id if search in runs else "none"
        events_again = run.lacking(runs, own, parent, refused)
        again += events_again
        if own not in runs:
            absent += 1
        elif not all(event.seq in refused for event in events_again):
            torn += 1
    again.sort(key=lambda event: event.seq)
    if again and settled is not None:
        again.append(settled)
        again.sort(key=lambda event: event.seq)
    return Audit(again, _note(absent, torn, len(expected)))


def _note(absent: int, torn: int, total: int) -> str:
    parts = [f"{absent} of {total} runs of this study are missing"] if absent else []
    parts += [f"{torn} of {total} are incomplete"] if torn else []
    return f"MLflow: {', '.join(parts)}; they are sent again" if parts else ""


def _by_tag(found: Iterable[Any]) -> dict[str, Any]:
    """The runs by the value of their tag; of doubled ones, that which counts."""
    runs: dict[str, Any] = {}
    for run in found:
        for tag in (SEARCH_TAG, TRIAL_TAG, REPEAT_TAG):
            value = run.data.tags.get(tag)
            if value is not None:
                runs[value] = most_written((run, runs[value])) if value in runs else run
    return runs


def _metrics(p: dict[str, Any]) -> dict[str, int]:
    """The finite metrics of a report, and its step."""
    named = metric_values(report_metrics(p, p.get("value")))
    return {name: p["report"]["images"] for name, value in named.items() if math.isfinite(value)}


def _holds(run: Any, metrics: dict[str, int]) -> bool:
    """Whether a run has these metrics, up to these steps."""
    if not metrics:
        return True
    # The last value of each; `data.metrics` has no steps.
    last = {metric.key: metric.step for metric in run.data.to_proto().metrics}
    return all(last.get(name, -1) >= step for name, step in metrics.items())
