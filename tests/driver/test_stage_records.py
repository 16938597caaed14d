"""What a status says of a study's trials, kept up to date by those that changed."""

import random
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.overhead.bookkeeping import NullSink, simulate
from benchmarks.overhead.copies import multiply
from meanflow_tune.driver import status_writer
from meanflow_tune.driver.driver import Driver
from meanflow_tune.driver.stage_records import StageRecords
from meanflow_tune.files import write_atomic
from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.report.live import View
from meanflow_tune.report.outlook import best_so_far
from meanflow_tune.report.state.trial_choice import SCREEN, study_state
from meanflow_tune.report.state.trial_rows import TrialRow
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.store.lease import Lease
from meanflow_tune.search.store.trials import best_record
from tests.support.records import build_record

STATUSES = ("running", "paused", "completed", "pruned", "failed", "out_of_memory")


class Feed:
    """Records of which some change."""

    def __init__(self) -> None:
        self.known: dict[int, TrialRecord] = {}
        self.changed: dict[int, TrialRecord] = {}

    def update(self) -> list[TrialRecord]:
        changed = list(self.changed.values())
        self.known |= self.changed
        self.changed = {}
        return changed


@pytest.mark.parametrize("objectives", ["gap@1", "gap@1,gap@2"])
def test_what_is_kept_is_what_all_records_give(objectives: str) -> None:
    draw, feed = random.Random(5), Feed()
    asked = Objectives.parse(objectives)
    ledger: Any = SimpleNamespace(record_feed=lambda: feed, objectives=asked)
    known = StageRecords(ledger)
    for _ in range(120):
        for _ in range(draw.randrange(3)):
            number = draw.randrange(60)
            before = feed.known.get(number)
            if before is not None and before.status not in ("running", "paused"):
                continue
            status = draw.choice(STATUSES)
            report = Report(draw.randrange(100), {}, {}, 1.0)
            values = tuple(draw.choice([0.25, draw.random()]) for _ in asked.parts)
            feed.changed[number] = replace(
                build_record(number, status, report),  # type: ignore[arg-type]
                baseline=f"b{number}" if number < 3 else None,
                values=values,
                value=values[0] if len(values) == 1 else None,
                ended=draw.random() if status not in ("running", "paused") else None,
            )
        known.update()
        records = [record for _, record in sorted(feed.known.items())]
        assert known.choice.state() == study_state(records, asked.directions)
        assert sum(known.choice.done.values()) == len(records)
        if asked.single is not None:
            assert known.best(["b1"]) == best_so_far(records, "minimize", ["b1"])
            assert known.leader == best_record(records, "minimize")


@pytest.mark.slow
def test_a_status_reads_no_more_of_a_larger_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per write: rows made, bytes written, syncs, and records that the rarer parts read."""
    costs = {}
    for trials in (60, 300):
        request = SearchRequest(
            study="s", trials=12, storage=tmp_path / str(trials), confirm=0, sampler="random"
        )
        simulate(request, lambda line: None)
        multiply(request.folder, trials)
        costs[trials] = _cost_per_write(request.model_copy(update={"trials": trials}), monkeypatch)
    small, large = costs.values()
    assert 0 < large["rows"] <= SCREEN
    assert large["kilobytes"] <= 1.3 * small["kilobytes"] + 1
    assert large["syncs"] == 0
    assert large["read"] <= status_writer.TRIALS_PER_REUSE


def _cost_per_write(request: SearchRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    found = {"rows": 0.0, "read": 0.0, "syncs": 0.0}
    made, explained = TrialRow.make, status_writer.implausible_trials

    def row(record: TrialRecord) -> TrialRow:
        found["rows"] += 1
        return made(record)

    def implausible(records: Any, *rest: Any) -> Any:
        found["read"] += len(records)
        return explained(records, *rest)

    def write(path: Path, content: str, durable: bool = True) -> None:
        found["syncs"] += durable
        write_atomic(path, content, durable)

    plan, writes = make_plan(request), 2 * request.trials // status_writer.TRIALS_PER_REUSE + 1
    with Lease.acquire(request.folder) as lease, View(quiet=True) as view, ExitStack() as stack:
        driver = Driver(plan, lease, view, "", verbose=False, make_sink=NullSink)
        driver.open(stack)
        driver.background.submit(int).result()
        driver.status.write()
        with monkeypatch.context() as patch:
            patch.setattr(TrialRow, "make", row)
            patch.setattr(status_writer, "implausible_trials", implausible)
            patch.setattr(status_writer, "write_atomic", write)
            for _ in range(writes):
                driver.status.write()
        driver.background.shutdown(wait=True)
    size = (request.folder / "status.json").stat().st_size
    return {what: count / writes for what, count in found.items()} | {"kilobytes": size / 1000}
