"""A whole driver whose trials are made up, in this process, without Ray and MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.driver import driver
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Job, Outcome, Report
from tests.support.paths import TINY_SPACE
from tests.support.sinks import RecordingSink

SPACE = str(TINY_SPACE)


class MadeUp:
    """In place of Ray: one slot, and trials of which each is a little better than the one before."""

    slots, description = 1, "made up"

    def __init__(self, watch: Any = lambda name, job: None) -> None:
        self.watch = watch

    def search(self, stage: Any, name: str, interrupt: Any) -> None:
        while (job := stage.next_job()) is not None:
            stage.on_end(job.number, self.train(stage, job))
            self.watch(name, job)

    def train(self, stage: Any, job: Job) -> Outcome:
        budget = job.config["budget"]
        for index, share in enumerate(budget["rungs"]):
            images, wall = int(share * budget["images"]), 0.01 * share * budget["images"]
            stage.on_tick({"progress": {job.number: {"phase": "train", "images": images, "of": 1}}})
            gap = 1.0 / (1.0 + job.number)
            metrics = {"teacher_gap@1": gap, "teacher_gap@2": gap}
            cost = {"wall_seconds": wall, "cpu_seconds": 10.0 + job.number}
            if not stage.on_report(job.number, Report(images, metrics, cost, wall + index)):
                return Outcome("pruned", "stopped at a rung")
        return Outcome("completed")


def replace_ray(monkeypatch: pytest.MonkeyPatch, made_up: MadeUp) -> list[RecordingSink]:
    """Searches are run by `made_up`; returns what they track, as they start."""
    sinks: list[RecordingSink] = []

    class Runner:
        @classmethod
        @contextmanager
        def start(cls, **_: Any) -> Iterator[MadeUp]:
            yield made_up

    def make_sink(*given: object, **named: object) -> RecordingSink:
        sinks.append(RecordingSink(*given, **named))
        return sinks[-1]

    monkeypatch.setattr(driver, "Runner", Runner)
    monkeypatch.setattr(driver, "MlflowSink", make_sink)
    return sinks


def four_trials(storage: Path) -> SearchRequest:
    return SearchRequest(
        space=SPACE, study="s", trials=4, storage=storage, scheduler="none", confirm=0
    )
