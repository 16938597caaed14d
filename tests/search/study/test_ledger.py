"""The ledger: states, decisions, order of jobs, and what a second driver finds."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from meanflow_tune.records import Outcome, Report
from meanflow_tune.search.errors import LeaseLost, SpaceError, StudyChanged
from meanflow_tune.search.objectives import SearchObjective
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.store.trials import best_record
from tests.support.rungs import make_rungs
from tests.support.sampler_history import SLOW_GP_KINDS
from tests.support.studies import (
    BASELINES,
    NAME,
    allow,
    make_ledger,
    outcome_of,
    report,
    run_all,
    run_job,
    suggest,
)


def trials_of(folder: Path) -> list[Any]:
    storage = open_storage(folder / JOURNAL_NAME)
    return storage.get_all_trials(storage.get_study_id_from_name(NAME))


def value_report(value: float, images: int) -> Report:
    return Report(images=images, metrics={"gap@1": value}, cost={}, time=1.0)


def test_baselines_come_first_in_order_and_are_never_stopped(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)  # the second baseline is the worse one, and reduction is 2
    run_all(ledger)
    records = ledger.records()
    assert [record.baseline for record in records] == ["plain", "bent"] + [None] * 6
    assert [record.params for record in records[:2]] == list(BASELINES.values())
    assert {record.status for record in records[:2]} == {"completed"}
    assert "pruned" in {record.status for record in records[2:]}


def test_total_counts_baselines_and_can_be_raised(tmp_path: Path) -> None:
    run_all(make_ledger(tmp_path, total=1))
    assert [trial.user_attrs["baseline"] for trial in trials_of(tmp_path)] == ["plain"]
    run_all(make_ledger(tmp_path, total=4))
    names = [trial.user_attrs.get("baseline") for trial in trials_of(tmp_path)]
    assert names == ["plain", "bent", None, None]
    assert make_ledger(tmp_path, total=2).exhausted()


def test_states_values_and_constraint_keys(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, total=5, rungs=None, baselines={})
    jobs = [ledger.next() for _ in range(5)]
    assert ledger.next() is None
    numbers = [job.number for job in jobs if job]
    assert numbers == [0, 1, 2, 3, 4]
    for number in numbers:
        ledger.record(number, value_report(1.0 + number, 20))
    ledger.record(0, value_report(0.5, 100))
    ledger.finish(0, Outcome("completed"))
    ledger.finish(1, Outcome("pruned", "too weak"))
    ledger.finish(2, Outcome("diverged", "not finite", violation=1.75))
    ledger.finish(4, Outcome("out_of_memory", "too wide"))
    ledger.finish(3, Outcome("failed", "no such key", deterministic=True))
    states = [trial.state for trial in trials_of(tmp_path)]
    pruned = TrialState.PRUNED
    assert states == [TrialState.COMPLETE, pruned, pruned, TrialState.FAIL, pruned]
    assert [trial.constraints for trial in trials_of(tmp_path)] == [
        {"diverged": 0.0, "out_of_memory": 0.0},
        {"diverged": 0.0, "out_of_memory": 0.0},
        {"diverged": 1.75, "out_of_memory": 0.0},
        {"diverged": 0.0, "out_of_memory": 0.0},
        {"diverged": 0.0, "out_of_memory": 1.0},
    ], "the same keys in every trial, or Optuna's GP refuses the study"
    assert trials_of(tmp_path)[0].value == 0.5
    assert trials_of(tmp_path)[1].intermediate_values == {20: 2.0}
    records = make_ledger(tmp_path, total=5, rungs=None, baselines={}).records()
    statuses = ["completed", "pruned", "diverged", "failed", "out_of_memory"]
    assert [r.status for r in records] == statuses
    assert [r.reason for r in records] == ["", "too weak", "not finite", "no such key", "too wide"]
    assert [r.value for r in records] == [0.5, 2.0, 3.0, 4.0, 5.0]


def test_repeats_change_nothing(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)
    job = ledger.next()
    assert job is not None
    first = ledger.record(job.number, value_report(0.4, 20))
    assert ledger.record(job.number, value_report(0.9, 20)) == first
    assert ledger.record_of(job.number).value == 0.4
    ledger.finish(job.number, Outcome("pruned", "first"))
    ledger.finish(job.number, Outcome("failed", "second"))
    assert (ledger.record_of(0).status, ledger.record_of(0).reason) == ("pruned", "first")
    late = ledger.record(job.number, value_report(0.1, 50))
    assert not late.go_on
    assert "already ended" in late.reason
    assert len(ledger.record_of(0).reports) == 1


def test_refusals(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)
    job = ledger.next()
    assert job is not None
    with pytest.raises(ValueError, match="never reported"):
        ledger.finish(job.number, Outcome("completed"))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be finite"):
            ledger.record(job.number, value_report(bad, 20))
    with pytest.raises(ValueError, match="no trial 99"):
        ledger.record(99, value_report(1.0, 20))
    with pytest.raises(ValueError, match=r"gap@1.*reported were other@1"):
        ledger.record(0, Report(images=20, metrics={"other@1": 1.0}, cost={}, time=0.0))
    assert ledger.record_of(0).status == "running"
    assert ledger.record_of(0).reports == ()


def test_running_outcome_leaves_the_trial_to_the_next_driver(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)
    jobs = [ledger.next(), ledger.next(), ledger.next()]
    ledger.record(1, value_report(0.4, 20))
    for number in range(3):
        ledger.finish(number, Outcome("running", "interrupted"))
    again = make_ledger(tmp_path)
    assert not again.exhausted()
    later = [again.next(), again.next(), again.next()]
    for old, new in zip(jobs, later, strict=True):
        assert old is not None
        assert new is not None
        assert (old.number, old.config, old.folder) == (new.number, new.config, new.folder)
        assert (old.attempt, new.attempt) == (0, 1)
    fresh = again.next()
    assert fresh is not None
    assert (fresh.number, fresh.attempt) == (3, 0)


def test_jobs_name_folder_and_epoch_and_hold_json(tmp_path: Path) -> None:
    ledger = make_ledger(
        tmp_path, epoch=5, baselines={}, suggest=lambda t: suggest(t) | {"nfe": (1, 2)}
    )
    job = ledger.next()
    assert job is not None
    assert (job.study, job.epoch) == (NAME, 5)
    assert Path(job.folder) == tmp_path / "trials" / "00000"
    assert job.config["nfe"] == [1, 2]


def test_the_last_rung_stops_nobody(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, rungs=make_rungs(reduction=2.0, min_peers=1), baselines={})
    for number, value in enumerate((0.1, 0.2, 0.3)):
        ledger.next()
        assert ledger.record(number, value_report(value, 100)).go_on
    assert ledger.record(0, value_report(0.1, 50)).go_on
    assert not ledger.record(1, value_report(0.2, 50)).go_on


def test_verdicts_are_the_same_after_reopening(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, baselines={}, total=3)
    for _ in range(3):
        ledger.next()
    values = {0: 0.3, 1: 0.1, 2: 0.2}
    before = {n: ledger.record(n, value_report(v, 20)) for n, v in values.items()}
    again = make_ledger(tmp_path, baselines={}, total=3)
    after = {n: again.record(n, value_report(v, 20)) for n, v in values.items()}
    assert before == after
    assert [decision.go_on for decision in after.values()] == [True, True, False]


def test_a_stop_that_nobody_carried_out_is_carried_out_on_opening(tmp_path: Path) -> None:
    rungs = make_rungs(reduction=2.0, min_peers=2, promotion=False)
    ledger = make_ledger(tmp_path, baselines={}, total=3, rungs=rungs)
    for number, value in enumerate((0.1, 0.2)):
        ledger.next()
        decision = ledger.record(number, value_report(value, 20))
    assert not decision.go_on
    again = make_ledger(tmp_path, baselines={}, total=3, rungs=rungs)
    assert again.record_of(1).status == "pruned"
    assert again.record_of(1).reason == decision.reason
    numbers = [job.number for job in (again.next(), again.next()) if job]
    assert numbers == [0, 2]


@pytest.mark.parametrize("written", [1, 2, 3])
def test_an_outcome_that_was_stored_is_not_asked_for_again(tmp_path: Path, written: int) -> None:
    run_all(make_ledger(tmp_path, total=1))
    journal = tmp_path / JOURNAL_NAME
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b'"outcome"' in lines[-4]  # then two constraints, then the end of the trial
    journal.write_bytes(b"".join(lines[: len(lines) - 4 + written]))
    ledger = make_ledger(tmp_path, total=1)
    assert ledger.record_of(0).status == "completed"
    assert ledger.next() is None


def test_best(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, rungs=None)
    assert best_record(ledger.records()) is None
    run_all(ledger)
    completed = [r for r in ledger.records() if r.status == "completed"]
    best, baseline, proposed = (
        best_record(ledger.records(), baseline=choice) for choice in (None, True, False)
    )
    assert best is not None
    assert best.value == min(r.value for r in completed if r.value is not None)
    assert baseline is not None
    assert baseline.baseline in BASELINES
    assert proposed is not None
    assert proposed.baseline is None
    assert best in (baseline, proposed)


def test_maximised_objective(tmp_path: Path) -> None:
    objective = SearchObjective(metrics=("gap@1",), direction="maximize")
    ledger = make_ledger(tmp_path, objectives=objective, baselines={}, total=2)
    for number, value in enumerate((0.5, 0.4)):
        ledger.next()
        decision = ledger.record(number, value_report(value, 20))
        ledger.record(number, value_report(value, 100))
        ledger.finish(number, Outcome("completed"))
    assert not decision.go_on
    best = best_record(ledger.records(), "maximize")
    assert best is not None
    assert best.value == 0.5


def test_changed_terms_are_refused(tmp_path: Path) -> None:
    run_all(make_ledger(tmp_path, total=2))
    with pytest.raises(StudyChanged, match=r"objective gap@1 minimize, not gap@2"):
        make_ledger(tmp_path, objectives=SearchObjective.parse("gap@2"))
    changed = BASELINES | {"plain": BASELINES["plain"] | {"x": 0.8}}
    with pytest.raises(StudyChanged, match="baseline 'plain' is trial 0"):
        make_ledger(tmp_path, baselines=changed)


def test_a_broken_space_surfaces_with_its_parameters(tmp_path: Path) -> None:
    def broken(trial: Any) -> dict[str, Any]:
        config = suggest(trial)
        raise ValueError(f"no such kind: {config['kind']}")

    with pytest.raises(SpaceError, match=r"trial 0 with the parameters .*no such kind: plain"):
        make_ledger(tmp_path, suggest=broken).next()
    job = make_ledger(tmp_path).next()  # fixed: the same number, now with a configuration
    assert job is not None
    assert (job.number, job.config["kind"], job.attempt) == (0, "plain", 0)


def test_a_lost_lease_stops_every_write(tmp_path: Path) -> None:
    lost = False

    def fence() -> None:
        if lost:
            raise LeaseLost("taken over")

    ledger = make_ledger(tmp_path, fence=fence)
    job = ledger.next()
    assert job is not None
    lost = True
    size = (tmp_path / JOURNAL_NAME).stat().st_size
    for write in (
        ledger.next,
        lambda: ledger.record(0, report(job.config, 20)),
        lambda: ledger.finish(0, Outcome("failed")),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert (tmp_path / JOURNAL_NAME).stat().st_size == size


def test_losing_the_lease_in_the_middle_of_an_ask_is_not_blamed_on_the_space(
    tmp_path: Path,
) -> None:
    lost = False

    def fence() -> None:
        if lost:
            raise LeaseLost("taken over")

    def loses(trial: Any) -> dict[str, Any]:
        nonlocal lost
        trial.suggest_float("x", -1.0, 1.0)
        lost = True
        return suggest(trial)

    with pytest.raises(LeaseLost):
        make_ledger(tmp_path, fence=fence, suggest=loses, baselines={}).next()


@pytest.mark.parametrize("sampler", SLOW_GP_KINDS)
def test_same_seed_same_search_other_seed_another(tmp_path: Path, sampler: str) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_all(make_ledger(tmp_path / name, sampler=sampler, seed=seed, total=7))
    assert outcome_of(tmp_path / "a") == outcome_of(tmp_path / "b")
    assert outcome_of(tmp_path / "a") != outcome_of(tmp_path / "c")


def test_a_database_serves_as_well(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    ledger = make_ledger(tmp_path, storage=open_storage(url, allow), total=3)
    run_all(ledger)
    run_all(make_ledger(tmp_path / "journal", total=3))
    again = make_ledger(tmp_path, storage=open_storage(url, allow), total=3)
    assert again.exhausted()
    expected = outcome_of(tmp_path / "journal")
    assert [record.params for record in again.records()] == [one["params"] for one in expected]
    assert [record.value for record in again.records()] == [
        one["reports"][-1]["metrics"]["gap@1"] for one in expected
    ]


def test_unknown_sampler_leaves_no_study(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tpe, gp, cmaes, nsgaii, qmc, random"):
        make_ledger(tmp_path, sampler="best")
    assert (tmp_path / JOURNAL_NAME).read_text() == ""


def test_two_slots_finish_the_same_trials_as_one(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, rungs=None, sampler="random")
    open_jobs = [ledger.next(), ledger.next()]
    while open_jobs:
        job = open_jobs.pop()  # the later one ends first
        assert job is not None
        run_job(ledger, job)
        if (following := ledger.next()) is not None:
            open_jobs.append(following)
    run_all(make_ledger(tmp_path / "one", rungs=None, sampler="random"))
    assert outcome_of(tmp_path) == outcome_of(tmp_path / "one")
