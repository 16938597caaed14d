"""A search whose trials are made up, in this process: what its status says while it runs."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.driver import driver, status_writer
from meanflow_tune.plan.request import SearchRequest, UserError
from meanflow_tune.records import Job, Outcome, Report
from meanflow_tune.report import last_screen, result_files, summary
from meanflow_tune.report.live import View
from meanflow_tune.report.status import show_status
from meanflow_tune.search.store.holder import LEASE_NAME
from meanflow_tune.search.store.lease import Lease
from tests.support.drivers.made_up import MadeUp, four_trials, replace_ray
from tests.support.paths import TINY_SPACE
from tests.support.records import build_record, with_samples

SPACE = str(TINY_SPACE)


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

    running: list[driver.Driver] = []
    run = driver.Driver.run

    def remembered(self: driver.Driver) -> int:
        running.append(self)
        return run(self)

    replace_ray(monkeypatch, MadeUp(watch))
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


class Absurd(MadeUp):
    """The third trial ends with a finite value that is absurd, and no proposed one is any good."""

    def train(self, stage: Any, job: Job) -> Outcome:
        value = (0.2, 0.3, 8.6e7, 0.4)[job.number]
        record = build_record(job.number, "completed", Report(1, {}, {}, 0.0))
        folder = Path(job.folder)
        folder.mkdir(parents=True, exist_ok=True)
        euler = {"teacher_gap@1": 0.5, "teacher_gap@2": 0.5}
        far = {of: {"far": x} for of, x in (("teacher", 0.2), ("data", 0.1), ("noise", 9.0))}
        made = with_samples(record, folder / "samples.npz", euler, far)
        for share in job.config["budget"]["rungs"]:
            images = int(share * job.config["budget"]["images"])
            metrics = {"teacher_gap@1": value, "teacher_gap@2": value}
            cost = {"wall_seconds": 1.0, "cpu_seconds": 1.0}
            last = Report(images, metrics, cost, 1.0, made.reports[-1].artifacts)
            assert stage.on_report(job.number, last)
        return Outcome("completed")


def test_the_status_tells_the_best_from_the_best_proposed_and_names_absurd_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request, sinks = four_trials(tmp_path), replace_ray(monkeypatch, Absurd())
    assert driver.run(request, "again", quiet=True) == 0
    warning = "worse than the teacher's own Euler steps, so its training failed: trial 2."
    assert warning in " ".join(capsys.readouterr().out.split()), "the summary"
    assert show_status(request) == 0
    shown = " ".join(capsys.readouterr().out.split())
    best = (
        "best so far: trial 0 (baseline backward) with 0.2000; best proposed: trial 3 with 0.4000"
    )
    assert best in shown
    quality = "the teacher against held-out data: far 0.2000 (training data 0.1000, noise 9.0000)"
    assert quality in shown
    assert warning in shown
    told = {event.kind: event.payload for event in sinks[0].seen}
    marks = {n: t["implausible"] for n, t in told["trials_settled"]["trials"].items()}
    assert [n for n, mark in marks.items() if mark is not None] == ["2"]
    summary = told["search_ended"]["summary"]
    assert (summary["best_trial"], summary["best_trial_is"]) == (0, "baseline backward")
    assert (summary["best_proposed_trial"], summary["implausible_trials"]) == (3, "2")
    assert told["search_ended"]["metrics"]["held_out/teacher/far"] == 0.2


def no_font(*_: object, **__: object) -> None:
    raise RuntimeError("no font")


@pytest.mark.parametrize(
    ("owner", "name", "purpose", "missing"),
    [
        (status_writer, "write_atomic", "write the status", "status.json"),
        (result_files, "sample_grid", "draw the samples of a trial", None),
        (result_files, "comparison_grid", "draw best.png", "best.png"),
        (result_files, "write_results", "write results.parquet", "results.parquet"),
        (result_files, "write_page", "write report.html", "report.html"),
        (result_files, "write_metrics", "write metrics.parquet", "metrics.parquet"),
        (summary, "show_search", "show the figures of the search", None),
        (summary, "better", "show the summary", None),
        (summary, "show_places", "show where the results are", None),
        (View, "_print", "show an event", None),
    ],
    ids=lambda x: x if isinstance(x, str) and " " in x else "",
)
def test_what_is_only_for_looking_at_ends_no_search(
    owner: Any,
    name: str,
    purpose: str,
    missing: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    request, sinks = four_trials(tmp_path), replace_ray(monkeypatch, Absurd())
    monkeypatch.setattr(owner, name, no_font)
    for _ in range(2):  # the second time, catching up
        assert driver.run(request, "again") == 0
        line = f"could not {purpose} (RuntimeError: no font); the search continues"
        errors = capsys.readouterr().err
        assert errors.count(line) <= 1
        files = {path.name for path in (tmp_path / "s").iterdir()}
        assert "best.json" in files
        assert missing not in files
    told = [event.kind for sink in sinks for event in sink.seen]
    assert told.count("trial_ended") == 4
    assert told.count("search_ended") >= 1
    if purpose != "draw the samples of a trial":
        assert line in errors


def test_what_is_true_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = four_trials(tmp_path)
    replace_ray(monkeypatch, MadeUp())
    monkeypatch.setattr(result_files, "write_best", no_font)
    with pytest.raises(RuntimeError, match="no font"):
        driver.run(request, "again", quiet=True)


def test_a_result_that_cannot_be_written_takes_no_summary_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The summary is shown and kept; the status and one line say what is missing."""

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "results.parquet")

    replace_ray(monkeypatch, MadeUp())
    monkeypatch.setattr(result_files, "write_results", denied)
    with pytest.raises(UserError, match=r"results.parquet: Permission denied") as caught:
        driver.run(four_trials(tmp_path), "again", quiet=True)
    assert (caught.value.status, caught.value.repeat) == (5, True)
    shown = capsys.readouterr().out
    kept = (tmp_path / "s" / "summary.txt").read_text()
    for text in (shown, kept):
        assert "best proposed: trial 3" in text
        assert "4 trials (4 completed)" in text


def test_a_summary_that_cannot_be_kept_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_ray(monkeypatch, MadeUp())
    monkeypatch.setattr(last_screen, "write_atomic", no_font)
    assert driver.run(four_trials(tmp_path), "again", quiet=True) == 0
    shown = capsys.readouterr()
    assert "best proposed: trial 3" in shown.out
    assert "summary.txt" not in shown.out
    assert "could not write summary.txt (RuntimeError: no font)" in shown.err


def test_the_status_of_a_killed_driver_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request, _ = four_trials(tmp_path), replace_ray(monkeypatch, Absurd())
    assert driver.run(request, "again", quiet=True) == 0
    gone = subprocess.Popen(["sleep", "60"])
    lease = Lease.acquire(request.folder)
    path = request.folder / LEASE_NAME
    state = json.loads(path.read_text()) | {"pid": gone.pid}
    lease.release()
    path.write_text(json.dumps(state))
    gone.kill()
    gone.wait()
    capsys.readouterr()
    assert show_status(request) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "no driver at work; the last one was killed, and the same command resumes it" in shown
    assert "left (end" not in shown
