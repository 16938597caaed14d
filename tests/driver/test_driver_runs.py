"""Whole drivers, one after another, with everything real but Ray, training, MLflow and time."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.cluster.signals import Stop
from meanflow_tune.driver import driver
from meanflow_tune.plan.request import SearchRequest, UserError
from meanflow_tune.records import Outcome, Report, TrialRecord
from meanflow_tune.report.live import View
from meanflow_tune.search.store.manifest import Manifest
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.time_budget import TimeBudget
from meanflow_tune.search.store.trials import current_name, read_records
from tests.support.paths import TINY_SPACE
from tests.support.sinks import RecordingSink

SPACE = str(TINY_SPACE)
SECONDS = 10.0  # that a trial takes
STORED = Path(__file__).parent / "stored_study"


class World:
    """Stands for the runner; time passes only while a trial trains."""

    description, slots = "no Ray", 1

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.state: dict[str, Any] = {}

    @contextmanager
    def start(self, **options: Any) -> Iterator["World"]:
        self.now += 1000  # the start of Ray is not counted
        yield self

    def search(self, stage: Any, name: str, stop: Stop) -> None:
        while not stop.requested and (job := stage.next_job()) is not None:
            self.now += SECONDS
            if stop.requested:
                stage.on_end(job.number, Outcome("running", "interrupted"))
                continue
            images = job.config["budget"]["images"]
            gaps = {f"teacher_gap@{nfe}": 1.0 + job.number for nfe in (1, 2)}
            assert stage.on_report(job.number, Report(images, gaps, {"cpu_seconds": 1.0}, 0.0))
            stage.on_end(job.number, Outcome("completed"))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(driver.Runner, "start", made.start)
    monkeypatch.setattr(driver, "MlflowSink", RecordingSink)
    monkeypatch.setattr(driver, "TimeBudget", partial(TimeBudget, now=lambda: made.now))
    monkeypatch.setattr(View, "event", lambda self, text, *_: made.said.append(text))
    return made


def request(storage: Path, budget: float | None, **changes: object) -> SearchRequest:
    given: dict[str, Any] = {"space": SPACE, "study": "s", "trials": 6, "storage": storage}
    return SearchRequest(**given | {"time_budget": budget} | changes)


def records(storage: Path, name: str = "s") -> list[TrialRecord]:
    return read_records(open_storage(storage / "s" / "study.journal"), name, storage / "s")


def test_a_budget_ends_the_search_and_a_larger_one_goes_on(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    run = partial(driver.run, command="again", quiet=True)
    assert run(request(tmp_path, 35.0)) == 0
    found = records(tmp_path)
    assert [record.status for record in found] == ["completed"] * 3 + ["running"]
    assert "The time budget ended the search after 40 s of work" in capsys.readouterr().out
    # The confirmation is not counted, and not stopped by the budget.
    confirmed = records(tmp_path, "s/confirm")
    assert len(confirmed) >= 4
    assert {record.status for record in confirmed} == {"completed"}
    before = world.now

    assert run(request(tmp_path, 35.0)) == 0
    assert any("the time budget is used up; no trial is started" in text for text in world.said)
    assert records(tmp_path) == found
    assert world.now == before

    assert run(request(tmp_path, 55.0)) == 0
    found = records(tmp_path)
    assert [record.status for record in found] == ["completed"] * 4 + ["running"]
    assert [record.attempt for record in found] == [0, 0, 0, 1, 0]

    capsys.readouterr()
    assert run(request(tmp_path, None)) == 0
    assert [record.status for record in records(tmp_path)] == ["completed"] * 6
    assert "time budget" not in capsys.readouterr().out


def test_each_end_of_a_search_tells_how_its_ended_trials_stand(
    tmp_path: Path, world: World
) -> None:
    """Whatever a driver that slept wrote late to MLflow: also where nothing else is left to do."""
    for budget, ended in ((35.0, 3), (35.0, 3), (None, 6), (None, 6)):
        assert driver.run(request(tmp_path, budget), "again", quiet=True) == 0
        lines = (tmp_path / "s" / "outbox" / "events.jsonl").read_text().splitlines()
        settled, last = (json.loads(line) for line in lines[-2:])
        assert (settled["kind"], last["kind"]) == ("trials_settled", "search_ended")
        trials = settled["payload"]["trials"]
        assert list(trials) == [str(number) for number in range(ended)]
        for record in records(tmp_path)[:ended]:
            told = trials[str(record.number)]
            assert (told["objective"], told["ended"]) == (record.value, record.ended)
            assert told["tags"]["state"] == "completed"
            assert told["tags"]["images"] == record.reports[-1].images


def test_a_budget_that_no_trial_fits_into_exits_with_3(tmp_path: Path, world: World) -> None:
    assert driver.run(request(tmp_path, 5.0), "again", quiet=True) == 3
    assert [record.status for record in records(tmp_path)] == ["running"]
    assert driver.run(request(tmp_path, 25.0, trials=2), "again", quiet=True) == 0


def test_a_finished_search_is_not_ended_by_its_budget(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert driver.run(request(tmp_path, 60.5), "again", quiet=True) == 0
    assert driver.run(request(tmp_path, 1.0), "again", quiet=True) == 0
    assert "time budget" not in capsys.readouterr().out


def test_a_confirmation_under_other_terms_needs_a_word(tmp_path: Path, world: World) -> None:
    """The search is done, so its report needs none; what is trained from now on does."""
    assert driver.run(request(tmp_path, None, confirm_seeds=0), "again", quiet=True) == 0
    other = tmp_path / "tiny_space.py"
    other.write_text(Path(SPACE).read_text() + "\n")
    assert (
        driver.run(request(tmp_path, None, confirm_seeds=0, space=str(other)), "again", quiet=True)
        == 0
    )
    assert any("changed" in text and "no trial is left to run" in text for text in world.said)
    confirming = request(tmp_path, None, space=str(other))
    with pytest.raises(UserError, match="--accept-changes") as refused:
        driver.run(confirming, "again", quiet=True)
    assert refused.value.status == 2
    accepted = confirming.model_copy(update={"accept_changes": True})
    assert driver.run(accepted, "again", quiet=True) == 0
    assert records(tmp_path, "s/confirm")
    manifest = Manifest.read(tmp_path / "s")
    assert manifest is not None
    assert [entry.accepted for entry in manifest.history if entry.terms == 1] == [True]


def test_a_search_goes_on_where_its_storage_was_moved(tmp_path: Path, world: World) -> None:
    first, second = tmp_path / "first", tmp_path / "second" / "runs"
    assert driver.run(request(first, None, trials=4), "again", quiet=True) == 0
    before = records(first)
    second.parent.mkdir()
    shutil.move(first, second)
    assert driver.run(request(second, None), "again", quiet=True) == 0
    found = records(second)
    assert len(found) == 6
    assert [replace(r, folder="") for r in found[:4]] == [replace(r, folder="") for r in before]
    assert all(Path(r.folder).is_relative_to(second) for r in found)
    assert not first.exists()


def test_another_objective_renews_the_confirmation_too(tmp_path: Path, world: World) -> None:
    assert driver.run(request(tmp_path, None), "again", quiet=True) == 0
    before = records(tmp_path, "s/confirm")
    other = request(tmp_path, None, objectives="teacher_gap@1", trials=7, accept_changes=True)
    assert driver.run(other, "again", quiet=True) == 0
    storage = open_storage(tmp_path / "s" / "study.journal")
    assert current_name(storage, "s") == "s@2"
    assert current_name(storage, "s/confirm") == "s/confirm@2"
    after = records(tmp_path, "s/confirm")
    assert [r.reports for r in after[: len(before)]] == [r.reports for r in before]
    assert len(records(tmp_path)) == 7


def test_a_study_of_the_earlier_layout_resumes_once_its_changes_are_accepted(
    tmp_path: Path, world: World
) -> None:
    """`stored_study/` was made before the package had its present modules, and killed in trial 2."""
    shutil.copytree(STORED, tmp_path / "s")
    for name in ("manifest.json", "study.journal"):
        path = tmp_path / "s" / name
        path.write_text(path.read_text().replace('"tiny_space"', '"s"'))
    before = records(tmp_path)
    assert [record.status for record in before] == ["completed", "completed", "running"]
    run = partial(driver.run, command="again", quiet=True)
    given = request(tmp_path, None, trials=4, confirm=0)
    with pytest.raises(UserError, match=r"the code of .* changed.*--accept-changes"):
        run(given)
    assert records(tmp_path) == before
    assert run(given.model_copy(update={"accept_changes": True})) == 0
    after = records(tmp_path)
    assert after[:2] == before[:2]
    assert [record.status for record in after] == ["completed"] * 4
    assert (after[2].params, after[2].attempt) == (before[2].params, 1)
    assert after[2].reports[: len(before[2].reports)] == before[2].reports
    manifest = Manifest.read(tmp_path / "s")
    assert manifest is not None
    assert [change.accepted for change in manifest.history][-1]
