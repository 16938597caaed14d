"""What stops, pauses, goes on after all, is spared or repeated: the ledger and its pruner."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from meanflow_tune.records import Decision, Outcome, Report
from meanflow_tune.search.errors import SearchStopped
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.pruning.rules import Rungs
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.study.ledger import Ledger
from tests.support.rungs import make_rungs
from tests.support.studies import NAME, make_ledger

RUNGS = make_rungs(reduction=2.0, min_peers=2)


def at(value: float, images: int, repeat: int = 0) -> Report:
    return Report(
        images=images,
        metrics={"gap@1": value, "other@1": 1.0 - value},
        cost={"cpu_seconds": 1.0},
        time=1.0,
        repeat=repeat,
    )


def make(folder: Path, **changes: Any) -> Ledger:
    settings: dict[str, Any] = {"baselines": {}, "rungs": RUNGS, "sampler": "random", "total": 6}
    return make_ledger(folder, **(settings | changes))


def reach(ledger: Ledger, number: int, value: float, images: int = 20) -> Decision:
    """A worker's report at a rung; it ends where the decision says so."""
    decision = ledger.record(number, at(value, images))
    if not decision.go_on and images < 100:
        ledger.finish(number, Outcome("pruned", "stopped at a rung"))
    return decision


def trials_of(folder: Path) -> list[Any]:
    storage = open_storage(folder / JOURNAL_NAME)
    return storage.get_all_trials(storage.get_study_id_from_name(NAME))


def test_a_paused_trial_goes_on_once_it_is_among_the_best(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    for number, value in enumerate((0.1, 0.2, 0.3)):
        job = ledger.next()
        assert job is not None
        assert (job.number, job.attempt) == (number, 0)
        reach(ledger, number, value)
    assert [record.status for record in ledger.records()] == ["running", "paused", "paused"]
    assert trials_of(tmp_path)[1].state == TrialState.RUNNING
    assert trials_of(tmp_path)[1].user_attrs["paused_at"] == 20
    ledger.next()
    reach(ledger, 3, 0.4)
    job = ledger.next()  # of four values the best two go on by now
    assert job is not None
    assert (job.number, job.attempt) == (1, 1)
    assert ledger.record_of(1).status == "running"
    decision = ledger.record(1, at(0.2, 20))  # the worker replays its reports
    assert decision.go_on
    assert decision.reason == "promoted: place 2 of 4, the best 2 continue"
    assert ledger.promotion_of(1) == (20, "place 2 of 4, the best 2 continue")
    assert ledger.promotion_of(1) is None, "it is handed out once"
    assert ledger.record_of(1).decisions[0] == decision.reason


def test_a_late_rung_promotes_first(tmp_path: Path) -> None:
    ledger = make(tmp_path, total=8)
    for number, value in enumerate((0.10, 0.11, 0.5, 0.6, 0.7, 0.8)):
        ledger.next()
        ledger.record(number, at(value, 20))
        if number > 1:
            ledger.finish(number, Outcome("pruned"))
    reach(ledger, 0, 0.10, 50)
    reach(ledger, 1, 0.11, 50)  # paused at 50: the second of two
    assert ledger.record_of(1).status == "paused"
    first = ledger.next()
    assert first is not None
    assert first.number == 2, "of six values at 20 the best three go on; at 50 still only one"
    reach(ledger, 2, 0.12, 50)
    reach(ledger, 2, 0.12, 50)
    ledger.next()
    for number in (3, 4):
        ledger.record(number, at(0.9, 50))
    later = ledger.next()
    assert later is not None
    assert later.number == 1


def test_a_resume_tells_paused_from_interrupted(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    for number, value in enumerate((0.1, 0.2)):
        ledger.next()
        reach(ledger, number, value)
    again = make(tmp_path)
    assert [record.status for record in again.records()] == ["running", "paused"]
    job = again.next()
    assert job is not None
    assert (job.number, job.attempt) == (0, 1)
    job = again.next()
    assert job is not None
    assert job.number == 2


def test_killed_between_verdict_and_pause_or_promotion_and_hand_out(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    for number, value in enumerate((0.1, 0.2, 0.3)):
        ledger.next()
        ledger.record(number, at(value, 20))  # and the worker of 1 and 2 is killed with the driver
    again = make(tmp_path)
    assert [record.status for record in again.records()] == ["running", "paused", "paused"]
    again.next()
    again.next()
    reach(again, 3, 0.4)
    job = again.next()
    assert job is not None
    assert job.number == 1
    journal = tmp_path / JOURNAL_NAME
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b'"promoted/20"' in lines[-2]
    journal.write_bytes(b"".join(lines[:-1]))  # promoted, not handed out
    third = make(tmp_path)
    jobs = [third.next(), third.next()]
    assert [job and job.number for job in jobs] == [0, 1]


def test_the_end_tells_paused_trials_once(tmp_path: Path) -> None:
    ledger = make(tmp_path, total=2)
    for number, value in enumerate((0.1, 0.2)):
        ledger.next()
        reach(ledger, number, value)
    ledger.record(0, at(0.1, 100))
    ledger.finish(0, Outcome("completed"))
    assert ledger.next() is None
    assert ledger.exhausted()
    assert ledger.end() == (1,)
    assert ledger.end() == ()
    trial = trials_of(tmp_path)[1]
    assert trial.state == TrialState.PRUNED
    assert trial.value == 0.2
    assert trial.intermediate_values == {20: 0.2}
    record = make(tmp_path, total=2).record_of(1)
    assert (record.status, record.reason) == ("pruned", record.decisions[-1])
    assert "only the best continues" in record.reason


def test_a_search_without_promotion_ends_what_it_stops(tmp_path: Path) -> None:
    ledger = make(tmp_path, rungs=RUNGS.model_copy(update={"promotion": False}))
    for number, value in enumerate((0.1, 0.2)):
        ledger.next()
        reach(ledger, number, value)
    assert ledger.record_of(1).status == "pruned"


def test_grace_brackets_protection_and_baselines_spare(tmp_path: Path) -> None:
    def stopped(folder: str, rungs: Rungs, **changes: Any) -> dict[int, str]:
        ledger = make(tmp_path / folder, rungs=rungs, total=10, **changes)
        reasons = {}
        for number in range(4):
            ledger.next()
            decision = ledger.record(number, at(0.1 * number, 20))
            reasons[number] = (
                decision.reason.rpartition(", but ")[2] if decision.go_on else "stopped"
            )
        return reasons

    plain = {"promotion": False, "reduction": 2.0, "min_peers": 2}
    assert list(stopped("a", make_rungs(**plain)).values())[1:] == ["stopped"] * 3
    graced = stopped("b", make_rungs(**plain, grace=30))
    assert list(graced.values())[1:] == ["the grace is 30 images"] * 3
    turns = stopped("c", make_rungs(**plain, brackets=2))
    assert turns[2] == "stopped", "0 and 2 are of bracket 0"
    assert turns[3] == "bracket 1 spares this rung", "1 and 3 are of bracket 1"
    protected = stopped("d", make_rungs(**plain, protect=1.0))
    assert protected[3] == "it is protected to audit the rungs"
    named = {"bad": {"x": 0.9, "kind": "plain", "z": 0.5}}
    assert make(tmp_path / "d", total=10).record_of(3).protected
    first = make(tmp_path / "e", total=10, rungs=None)
    for _ in range(2):
        first.next()
        first.record(0, at(0.1, 20))
    ledger = make(tmp_path / "e", total=10, baselines=named)
    ledger.next()
    ledger.next()
    ledger.next()
    assert ledger.record_of(2).baseline == "bad"
    ledger.record(1, at(0.2, 20))
    assert ledger.record(2, at(0.9, 20)).reason.endswith("but a baseline is never stopped")


def test_a_bracket_spares_only_its_first_rungs(tmp_path: Path) -> None:
    rungs = make_rungs(reduction=2.0, min_peers=2, brackets=2, promotion=False)
    ledger = make(tmp_path, rungs=rungs, total=8)
    for _ in range(4):
        ledger.next()
    for images, expected in ((20, [True, True]), (50, [True, False])):
        decisions = [ledger.record(n, at(0.1 * n, images)).go_on for n in (1, 3)]
        assert decisions == expected


def test_several_objectives_stop_and_are_told_as_tuples(tmp_path: Path) -> None:
    objectives = Objectives.parse("gap@1,cost")
    rungs = make_rungs(reduction=2.0, min_peers=2)

    def cost(value: float, seconds: float, images: int) -> Report:
        return Report(images, {"gap@1": value}, {"cpu_seconds": seconds}, 1.0)

    ledger = make(tmp_path, objectives=objectives, rungs=rungs, total=3)
    points = [(0.1, 5.0), (0.5, 1.0), (0.6, 6.0)]
    for number, (value, seconds) in enumerate(points):
        ledger.next()
        ledger.record(number, cost(value, seconds, 20))
    assert [r.value for r in ledger.records()] == [None] * 3
    assert [r.values for r in ledger.records()] == points
    ledger.finish(2, Outcome("pruned"))
    ledger.record(0, cost(0.1, 9.0, 100))
    ledger.finish(0, Outcome("completed"))
    ledger.finish(1, Outcome("diverged", "not finite", violation=1.5))
    again = make(tmp_path, objectives=objectives, rungs=rungs, total=3)
    again.end()
    first, second, third = trials_of(tmp_path)
    assert first.values == [0.1, 9.0]
    assert second.constraints["diverged"] == 1.5
    assert [t.state for t in (second, third)] == [TrialState.PRUNED] * 2
    assert third.user_attrs["report/20"]["values"] == [0.6, 6.0]


def test_survivors_of_the_last_rung_are_repeated_on_the_same_seeds(tmp_path: Path) -> None:
    ledger = make(tmp_path, repeats=2, rungs=None)
    jobs = [ledger.next() for _ in range(4)]
    seeds = {job.repeats for job in jobs if job}
    assert len(seeds) == 1
    assert len(set(*seeds)) == 2
    wanted = [ledger.record(n, at(v, 100)).go_on for n, v in enumerate((0.3, 0.2, 0.4, 0.1))]
    assert wanted == [True, True, False, True]
    ledger.record(1, at(0.25, 100, repeat=1))
    assert ledger.record(1, at(0.99, 100, repeat=1)).go_on, "told again, it changes nothing"
    ledger.record(1, at(0.21, 100, repeat=2))
    ledger.finish(1, Outcome("completed"))
    record = make(tmp_path, repeats=2, rungs=None).record_of(1)
    assert [r.metrics["gap@1"] for r in record.repeats] == [0.25, 0.21]
    assert record.value == 0.2, "the value that is told is that of the seed all trials share"
    assert trials_of(tmp_path)[1].value == 0.2
    assert len(record.reports) == 1


def test_a_row_of_deterministic_failures_stops_the_search(tmp_path: Path) -> None:
    """Stock Ray goes through all trials of a broken space, and exits with 0."""
    ledger = make(tmp_path, max_failures=2)
    for _ in range(5):
        ledger.next()
    broken = Outcome("failed", "KeyError: 'x'", deterministic=True)
    ledger.finish(0, broken)
    ledger.finish(1, Outcome("diverged", "not finite"))
    ledger.finish(2, broken)
    with pytest.raises(
        SearchStopped, match=r"2 consecutive failed trials.*trial 3.*KeyError.*max-failures"
    ):
        ledger.finish(3, broken)
    assert ledger.record_of(3).status == "failed"
    assert make(tmp_path, max_failures=2).next() is not None, "fixed, the same command continues"


def test_failures_of_the_machines_are_left_to_the_next_driver_once(tmp_path: Path) -> None:
    lost = Outcome("failed", "crashed 4 times: host lost")
    ledger = make(tmp_path, max_failures=2)
    ledger.next()
    ledger.finish(0, lost)
    assert ledger.record_of(0).status == "running"
    second = ledger.next()
    assert second is not None
    assert second.number == 1, "not again in this driver"
    with pytest.raises(SearchStopped, match="failed repeatedly: crashed 4 times: host lost"):
        ledger.finish(1, lost)
    again = make(tmp_path, max_failures=2)
    job = again.next()
    assert job is not None
    assert (job.number, job.attempt) == (0, 1)
    again.finish(0, lost)
    assert again.record_of(0).status == "failed"
    assert trials_of(tmp_path)[0].state == TrialState.FAIL, "which samplers ignore"


def test_trials_of_another_study_are_history_only(tmp_path: Path) -> None:
    import optuna
    from optuna.distributions import FloatDistribution

    storage = open_storage(tmp_path / JOURNAL_NAME, lambda: None)
    study = optuna.create_study(storage=storage, study_name=NAME)
    other = optuna.trial.create_trial(
        value=0.0,
        params={"z": 0.5},
        distributions={"z": FloatDistribution(0.0, 1.0)},
        user_attrs={"imported_from": "old", "config": {}, "report/20": {"value": 0.0}},
    )
    study.add_trial(other)
    ledger = make(tmp_path, total=2)
    numbers = [job.number for job in iter(ledger.next, None)]
    assert numbers == [1, 2]
    assert ledger.record(1, at(0.3, 20)).reason.startswith("place 1 of 1")
    assert [record.number for record in ledger.records()] == [1, 2]


def test_terms_are_kept_with_the_trials_made_under_them(tmp_path: Path) -> None:
    make(tmp_path).next()
    ledger = make(tmp_path, terms=1)
    ledger.next()
    ledger.next()
    assert [t.user_attrs.get("terms", 0) for t in trials_of(tmp_path)] == [0, 1]


def test_nothing_is_stopped_before_its_ramps_are_over(tmp_path: Path) -> None:
    def ramps_end(config: Any) -> float:
        return 0.5 if config["ramp"] else 0.0

    def suggest(trial: Any) -> dict[str, Any]:
        budget = {"images": 100, "global_batch": 10, "rungs": [0.2, 0.5, 1.0]}
        return {"budget": budget, "ramp": trial.number == 2}

    ledger = make(tmp_path, suggest=suggest, ramps_end=ramps_end)
    for number, value in enumerate((0.1, 0.2, 0.3, 0.4)):
        ledger.next()
        decision = reach(ledger, number, value)
        spared = "its ramps last until 50% of its images" in decision.reason
        assert spared is (number == 2)
        assert decision.go_on is (number in (0, 2))
    reach(ledger, 0, 0.1, 50)
    after = reach(ledger, 2, 0.3, 50)
    assert not after.go_on, "at 50 of 100 images its ramps are over"
