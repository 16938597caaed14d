"""What users ask of a study: stopped and enqueued trials, exactly once, whenever the driver is killed."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.records import Outcome, TrialRecord
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.store.trials import trial_states
from meanflow_tune.search.study.ledger import Ledger
from meanflow_tune.search.study.writer import STOPPED_BY_USER
from tests.support.studies import BASELINES, NAME, make_ledger, report, run_all, run_job

WANTED = {"x": 0.25, "kind": "bent", "rate": 0.5, "z": 0.125}


def states(folder: Path) -> dict[int, str]:
    return trial_states(open_storage(folder / JOURNAL_NAME), NAME)


def enqueued(*requests: Mapping[str, Any]) -> Any:
    def each() -> Iterable[tuple[str, Mapping[str, Any]]]:
        return [(str(index), params) for index, params in enumerate(requests)]

    return each


def record(ledger: Ledger, number: int) -> TrialRecord:
    return ledger.record_of(number)


def is_stopped(ledger: Ledger, number: int) -> bool:
    found = record(ledger, number)
    return (found.status, found.reason) == ("pruned", "stopped by the user")


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("running", "interrupted"),
        Outcome("pruned", "not among the best"),
        Outcome("failed", "crashed 4 times"),
    ],
    ids=lambda one: one.status,
)
def test_a_running_trial_ends_at_its_next_safe_point(tmp_path: Path, outcome: Outcome) -> None:
    ledger = make_ledger(tmp_path)
    job = ledger.next()
    assert job is not None
    ledger.record(job.number, report(job.config, 20))
    assert ledger.stopping() == ()
    assert not ledger.stop(job.number)
    assert not ledger.stop(job.number), "asking twice is asking once"
    assert ledger.stopping() == (job.number,)
    assert ledger.outcome_of(job.number, outcome) == STOPPED_BY_USER
    ledger.finish(job.number, outcome)
    assert is_stopped(ledger, job.number)
    assert ledger.stopping() == ()
    assert states(tmp_path) == {0: "pruned"}


@pytest.mark.parametrize("status", ["completed", "diverged", "out_of_memory"])
def test_a_stop_that_comes_too_late_changes_nothing(tmp_path: Path, status: Any) -> None:
    ledger = make_ledger(tmp_path)
    job = ledger.next()
    assert job is not None
    ledger.record(job.number, report(job.config, 20))
    ledger.stop(job.number)
    ledger.finish(job.number, Outcome(status))
    assert record(ledger, job.number).status == status


def test_a_driver_that_was_killed_in_between_ends_it_at_its_next_start(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)
    assert ledger.next() is not None
    ledger.stop(0)
    again = make_ledger(tmp_path)
    assert is_stopped(again, 0)
    run_all(again)
    assert is_stopped(again, 0)


def test_a_trial_of_an_earlier_driver_ends_at_once(tmp_path: Path) -> None:
    assert make_ledger(tmp_path).next() is not None
    ledger = make_ledger(tmp_path)
    assert ledger.stop(0)
    assert is_stopped(ledger, 0)
    following = ledger.next()
    assert following is not None
    assert following.number == 1


def test_a_paused_trial_ends_at_once_and_is_never_promoted(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, total=16)
    while (job := ledger.next()) is not None:
        run_job(ledger, job)
        if "paused" in states(tmp_path).values():
            break
    (paused,) = [number for number, state in states(tmp_path).items() if state == "paused"]
    assert ledger.stop(paused)
    run_all(ledger)
    assert is_stopped(ledger, paused)


def test_a_waiting_trial_ends_without_having_run(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)
    ledger._writer.enqueue(BASELINES["plain"], {"baseline": "plain"})
    assert states(tmp_path) == {0: "waiting"}
    assert ledger.stop(0)
    assert is_stopped(ledger, 0)
    assert record(ledger, 0).config["x"] == 0.9
    run_all(ledger)  # samplers cope with a pruned trial that never reported
    assert len(ledger.records()) == 8


@pytest.mark.parametrize("number", [1, 99])
def test_a_trial_that_ended_or_does_not_exist_is_refused(tmp_path: Path, number: int) -> None:
    ledger = make_ledger(tmp_path)
    for _ in range(2):
        job = ledger.next()
        assert job is not None
        run_job(ledger, job)
    ledger.end()
    with pytest.raises(ValueError, match=f"trial {number}"):
        ledger.stop(number)


def test_an_enqueued_trial_comes_after_baselines_and_before_proposals(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, enqueued=enqueued(WANTED, {"x": 0.5}))
    run_all(ledger)
    found = ledger.records()
    assert [one.what for one in found[:5]] == ["plain", "bent", "enqueued", "enqueued", "proposed"]
    assert found[2].params == WANTED
    assert found[3].params["x"] == 0.5
    assert len(found) == 8, "each counts as one of the total"


def test_each_request_makes_one_trial_however_often_it_is_read(tmp_path: Path) -> None:
    wanted = enqueued(WANTED)
    for _ in range(4):  # killed after each trial; the request's file is still there
        job = make_ledger(tmp_path, enqueued=wanted).next()
        assert job is not None
    ledger = make_ledger(tmp_path, enqueued=wanted)
    run_all(ledger)
    assert sum(one.enqueued for one in ledger.records()) == 1
    assert ledger.enqueued_keys() == {None, "0"}


def test_what_does_not_fit_waits_for_a_larger_total(tmp_path: Path) -> None:
    run_all(make_ledger(tmp_path, total=4))
    ledger = make_ledger(tmp_path, total=4, enqueued=enqueued(WANTED))
    assert ledger.exhausted()
    assert ledger.next() is None
    ledger = make_ledger(tmp_path, total=5, enqueued=enqueued(WANTED))
    run_all(ledger)
    assert ledger.records()[4].enqueued
