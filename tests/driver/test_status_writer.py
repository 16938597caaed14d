"""A search whose trials are made up, in this process: what its status says while it runs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.driver import driver
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Job, Outcome, Report
from meanflow_tune.report.status import show_status
from tests.support.paths import TINY_SPACE
from tests.support.sinks import RecordingSink

SPACE = str(TINY_SPACE)


class MadeUp:
    """In place of Ray: one slot, and trials of which each is a little better than the one before."""

    slots, description = 1, "made up"

    def __init__(self, watch: Any) -> None:
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


@pytest.mark.parametrize("budget", [None, 400.0])
def test_the_status_forecasts_the_end_and_shows_the_front(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    budget: float | None,
) -> None:
    """A time budget of 400 s ends the search before its 524 s, and says so while that is the case."""
    request = SearchRequest(
        space=SPACE,
        study="s",
        trials=5,
        storage=tmp_path,
        objectives="teacher_gap@1,cost",
        scheduler="none",
        confirm=0,
        time_budget=budget,
    )
    seen: list[dict[str, Any]] = []
    shown: list[str] = []

    def watch(name: str, job: Job) -> None:
        """What another terminal sees after each trial."""
        running[0].status.write()
        seen.append(json.loads((tmp_path / "s" / "status.json").read_text()))
        capsys.readouterr()
        assert show_status(request) == 0
        shown.append(capsys.readouterr().out)

    class Runner:
        @classmethod
        @contextmanager
        def start(cls, **_: Any) -> Iterator[MadeUp]:
            yield MadeUp(watch)

    running: list[driver.Driver] = []
    run = driver.Driver.run

    def remembered(self: driver.Driver) -> int:
        running.append(self)
        return run(self)

    monkeypatch.setattr(driver, "Runner", Runner)
    monkeypatch.setattr(driver, "MlflowSink", RecordingSink)
    monkeypatch.setattr(driver.Driver, "run", remembered)
    assert driver.run(request, "again", quiet=True) == 0
    # A trial is 128 s of training and three evaluations, of which the first is not told apart.
    left = [status["seconds_left"] for status in seen]
    assert left[1:4] == pytest.approx([3 * 131.0, 2 * 131.0, 131.0])
    if budget is None:
        assert left[0] == pytest.approx(4 * 131.0)
    else:
        assert 131.0 < left[0] < budget
    ends_early = ["--time-budget ends it earlier" in status["forecast"] for status in seen]
    assert ends_early == [budget is not None, *[False] * 4]
    for status, text in zip(seen[:4], shown[:4], strict=True):
        assert status["forecast"].startswith("about ")
        assert " left (end " in status["forecast"]
        assert status["forecast"] in " ".join(text.split())
    # Better and dearer from trial to trial, so that all are on the front.
    assert seen[3]["front"].startswith("4 of 4 completed trials on the front, hypervolume ")
    assert sum(line.count("●") for line in seen[3]["picture"]) == 4
    last = json.loads((tmp_path / "s" / "status.json").read_text())
    assert last["ended"]
    assert last["forecast"] == ""
    assert last["front"].startswith("5 of 5")
