"""The driver's own decisions: the terms of a study, and what is put aside."""

import os
from pathlib import Path

import pytest

from meanflow_tune.driver.driver import Driver, run
from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import SearchRequest, UserError
from meanflow_tune.records import Outcome, Report, TrialRecord
from meanflow_tune.report.live import View
from meanflow_tune.search.errors import StudyChanged
from meanflow_tune.search.space.load import spaces_folder
from meanflow_tune.search.store.lease import Lease
from meanflow_tune.search.store.manifest import Manifest
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.store.trials import current_name, read_records
from meanflow_tune.search.study.ledger import Ledger
from tests.support.paths import TINY_SPACE
from tests.support.studies import allow, make_ledger

SPACE = str(TINY_SPACE)


def request(storage: Path, **changes: object) -> SearchRequest:
    return SearchRequest(
        **{
            "space": SPACE,
            "study": "s",
            "trials": 4,
            "storage": storage,
            "sampler": "random",
            "scheduler": "none",
        }
        | changes
    )


def check(given: SearchRequest, begin: bool = False) -> Driver:
    """Let a driver check the terms of its study; `begin`: then hand out a trial."""
    plan = make_plan(given)
    with Lease.acquire(given.folder) as lease:
        driver = Driver(plan, lease, View(quiet=True), "again", verbose=False)
        driver.open_study()
        driver.check_manifest()
        if begin:
            assert driver.make_ledger().next() is not None
    return driver


def run_whole(given: SearchRequest) -> list[TrialRecord]:
    """What a driver does with a study, without Ray and training: every trial runs to its end."""
    plan = make_plan(given)
    with Lease.acquire(given.folder) as lease:
        driver = Driver(plan, lease, View(quiet=True), "again", verbose=False)
        driver.open_study()
        driver.check_manifest()
        ledger = driver.make_ledger()
        while (job := ledger.next()) is not None:
            images = job.config["budget"]["images"]
            gaps = {f"teacher_gap@{nfe}": 1.0 + job.number / nfe for nfe in (1, 2, 4)}
            ledger.record(job.number, Report(images, gaps, {"cpu_seconds": 1.0}, 0.0))
            ledger.finish(job.number, Outcome("completed"))
        return ledger.records()


def variant(folder: Path, source: Path, *changes: tuple[str, str]) -> str:
    """A copy of a space with some of its text replaced."""
    text = source.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / source.name
    path.write_text(text)
    return str(path)


FAMILY = ('"separate", "beta", "gap_first"]', '"separate", "beta"]')


def test_a_time_sampler_family_is_added_to_the_default_space(tmp_path: Path) -> None:
    """The commonest change: Optuna refuses another set of choices, a generation takes all over."""
    source = spaces_folder() / "second_order.py"
    before = run_whole(request(tmp_path, space=variant(tmp_path, source, FAMILY), trials=8))
    with_all = request(tmp_path, space=variant(tmp_path, source), trials=16)
    with pytest.raises(StudyChanged, match=r"source of the search space changed.*accept-changes"):
        run_whole(with_all)
    after = run_whole(with_all.model_copy(update={"accept_changes": True}))
    assert after[:8] == before
    assert [record.number for record in after] == list(range(16))
    assert "gap_first" in {record.params["time/family"] for record in after[8:]}
    assert [record.terms for record in after] == [0] * 8 + [1] * 8
    manifest = Manifest.read(with_all.folder)
    assert manifest is not None
    accepted = manifest.history[-1]
    assert (accepted.first_trial, accepted.terms, accepted.accepted) == (8, 1, True)
    # The next run has nothing to accept, and readers see the same.
    assert run_whole(with_all) == after
    storage = open_storage(with_all.folder / "study.journal")
    assert read_records(storage, "s", with_all.folder) == after
    assert current_name(storage, "s") == "s@2"


def test_a_choice_is_removed(tmp_path: Path) -> None:
    given = request(tmp_path, trials=8)
    before = run_whole(given)
    assert any(record.params["loss/second_order/sign"] == 1 for record in before)
    space = variant(tmp_path, Path(SPACE), ("[-1, 0, 1]", "[-1, 0]"))
    after = run_whole(
        given.model_copy(update={"space": space, "accept_changes": True, "trials": 12})
    )
    assert after[:8] == before
    assert all(record.params["loss/second_order/sign"] != 1 for record in after[8:])


def test_another_objective_counts_the_stored_reports_anew(tmp_path: Path) -> None:
    given = request(tmp_path, trials=4)
    run_whole(given)
    other = given.model_copy(update={"objectives": "teacher_gap@1,cost", "trials": 5})
    with pytest.raises(StudyChanged, match="objective was geometric_mean"):
        run_whole(other)
    after = run_whole(other.model_copy(update={"accept_changes": True}))
    assert [record.values for record in after] == [(1.0 + n, 1.0) for n in range(5)]


def test_before_the_first_trial_the_objective_may_change_too(tmp_path: Path) -> None:
    given = request(tmp_path)
    plan = make_plan(given)
    with Lease.acquire(given.folder) as lease:
        driver = Driver(plan, lease, View(quiet=True), "again", verbose=False)
        driver.open_study()
        driver.check_manifest()
        driver.make_ledger()
    check(given)
    assert len(run_whole(given.model_copy(update={"objectives": "teacher_gap@1"}))) == 4


def test_nothing_is_refused_where_no_trial_is_left(tmp_path: Path) -> None:
    given = request(tmp_path, trials=4)
    before = run_whole(given)
    manifest = (given.folder / "manifest.json").read_bytes()
    space = variant(tmp_path, Path(SPACE), ("GOAL = ", "#\nGOAL = "))
    changed = given.model_copy(update={"space": space})
    assert run_whole(changed) == before
    assert (given.folder / "manifest.json").read_bytes() == manifest
    driver = check(changed)
    with pytest.raises(StudyChanged, match="search space"):  # should a confirmation be left
        driver.terms.enforce()
    with pytest.raises(StudyChanged, match="search space"):
        check(changed.model_copy(update={"trials": 5}))


def test_fewer_trials_than_there_are_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_whole(request(tmp_path, trials=6))
    said: list[str] = []
    monkeypatch.setattr(View, "event", lambda self, text, *_: said.append(text))
    assert run_whole(request(tmp_path, trials=4)) == before
    assert any("--trials 4: the study has 6 trials already; none is lost" in text for text in said)


def test_a_warm_start_and_then_own_trials(tmp_path: Path) -> None:
    run_whole(request(tmp_path, study="old", trials=4))
    given = request(tmp_path, study="new", trials=3, import_study="old")
    own = run_whole(given)
    assert [record.number for record in own] == [4, 5, 6]
    assert run_whole(given) == own
    assert len(run_whole(given.model_copy(update={"trials": 4}))) == 4
    with pytest.raises(StudyChanged, match="is the study itself"):
        check(request(tmp_path, study="third", trials=3, import_study="third"))


def test_a_database_study_of_another_folder_is_not_taken(tmp_path: Path) -> None:
    """Its trials' checkpoints are in that folder, and so is the lease that guards it."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    make_ledger(tmp_path, open_storage(url, allow), study_name="s").next()
    plan = make_plan(request(tmp_path / "runs", study_storage=url))
    with Lease.acquire(plan.request.folder) as lease:
        driver = Driver(plan, lease, View(quiet=True), "again", verbose=False)
        driver.open_study()
        with pytest.raises(StudyChanged, match=r"studies.db holds a study s of another storage"):
            driver.check_manifest()


@pytest.mark.parametrize("kind", ["database", "journal"])
def test_an_empty_storage_of_a_study_with_trials_is_refused(tmp_path: Path, kind: str) -> None:
    """A mistyped URL, or a database that was emptied: it would begin a second search in this folder."""
    given = request(tmp_path)
    run_whole(given)
    for number in range(3):
        (given.folder / "trials" / f"{number:05d}").mkdir(parents=True, exist_ok=True)
    (given.folder / JOURNAL_NAME).unlink()
    if kind == "database":
        given = given.model_copy(update={"study_storage": f"sqlite:///{tmp_path / 'new.db'}"})
    with pytest.raises(
        UserError, match=r"holds no trial of study s, but .*trials has 3"
    ) as refused:
        run(given, "again", quiet=True)
    assert refused.value.status == 5
    assert "--study-storage, restore it from a backup" in str(refused.value)


def test_a_storage_that_is_older_than_the_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal restored from a backup, or cut short: its later trials are lost, and this says so."""
    said: list[str] = []
    monkeypatch.setattr(View, "event", lambda self, text, status="": said.append(text))
    given = request(tmp_path)
    check(given, begin=True)
    for number in (0, 1, 2):
        (given.folder / "trials" / f"{number:05d}").mkdir(parents=True, exist_ok=True)
    (given.folder / "trials" / "00007.other-20260101-000000").mkdir()
    check(given)
    (line,) = [text for text in said if "restored from a backup" in text]
    assert "study.journal holds 1 trials of study s, but" in line
    assert "has 2 later ones" in line


def test_a_second_driver_exits_with_4_and_names_the_first(tmp_path: Path) -> None:
    given = request(tmp_path)
    with Lease.acquire(given.folder), pytest.raises(UserError) as refused:
        run(given, "again", quiet=True)
    assert refused.value.status == 4
    assert f"process {os.getpid()} on host {os.uname().nodename}" in str(refused.value)


def test_a_change_that_is_not_accepted_exits_with_2(tmp_path: Path) -> None:
    run_whole(request(tmp_path))
    with pytest.raises(UserError, match="--accept-changes") as refused:
        run(request(tmp_path, trials=9, settings=("seed=1",)), "again", quiet=True)
    assert refused.value.status == 2


def test_terms_may_change_until_there_is_a_trial(tmp_path: Path) -> None:
    check(request(tmp_path, settings=("budget.images=25600",)))
    check(request(tmp_path), begin=True)
    check(request(tmp_path, trials=8, sampler="tpe"))  # no terms of comparison
    with pytest.raises(StudyChanged, match=r"budget.images=6400.*another study name"):
        check(request(tmp_path, settings=("budget.images=6400",)))


def test_another_source_of_the_space_is_another_study(tmp_path: Path) -> None:
    check(request(tmp_path), begin=True)
    copy = tmp_path / "tiny_space.py"
    copy.write_text(Path(SPACE).read_text().replace("size=512", "size=256"))
    with pytest.raises(StudyChanged, match="search space"):
        check(request(tmp_path, space=str(copy)))


def test_fresh_puts_the_old_study_aside_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(request(tmp_path), begin=True)
    journal = (tmp_path / "s" / "study.journal").read_bytes()
    monkeypatch.setattr(Driver, "run", lambda self: 0)
    assert run(request(tmp_path, resume="fresh"), "again", quiet=True) == 0
    (aside,) = tmp_path.glob("s-aside-*")
    assert (aside / "study.journal").read_bytes() == journal
    assert not (tmp_path / "s" / "study.journal").exists()


def test_fresh_refuses_while_a_driver_is_at_work(tmp_path: Path) -> None:
    with Lease.acquire(tmp_path / "s"), pytest.raises(UserError, match="in use") as refused:
        run(request(tmp_path, resume="fresh"), "again")
    assert refused.value.status == 4


def test_samplers_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--sampler cmaes: it supports one objective") as refused:
        run(request(tmp_path, sampler="cmaes", objectives="teacher_gap@1,cost"), "again")
    assert refused.value.status == 2
    assert not (tmp_path / "s").exists()


def test_what_a_sampler_leaves_to_chance_is_in_the_plan_and_the_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(request(tmp_path, sampler="gp"))
    assert plan.independent == ("loss/second_order/size",)
    assert make_plan(request(tmp_path, sampler="tpe")).independent == ()

    class Enough(Exception):
        pass

    def stop(self: Driver) -> None:
        raise Enough

    lines: list[str] = []
    monkeypatch.setattr(Driver, "make_ledger", stop)
    monkeypatch.setattr(View, "event", lambda self, text, style="": lines.append(text))
    with pytest.raises(Enough):
        run(request(tmp_path, sampler="gp"), "again")
    assert lines == [
        "sampler gp models what every trial has; these are drawn independently of results: "
        "loss/second_order/size"
    ]


def test_startup_trials_are_those_of_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    class Enough(Exception):
        pass

    def made(**settings: object) -> Ledger:
        given.append(settings["startup_trials"])
        raise Enough

    monkeypatch.setattr("meanflow_tune.driver.driver.Ledger", made)
    with pytest.raises(Enough):
        run(request(tmp_path, startup_trials=3), "again", quiet=True)
    assert given == [3]
