"""`--dry-run`: what it prints, from which figures, and that it writes nothing."""

import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from meanflow_tune.driver import dry_run
from meanflow_tune.ds_schedules import DS_SCHEDULE_KINDS
from meanflow_tune.plan.calibration import Calibration, Sizes, Timing
from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Report
from meanflow_tune.report.forecast_tables import stopping_text
from meanflow_tune.report.space_plots import show_plots
from meanflow_tune.report.text import rounded, size
from meanflow_tune.search.space.draws import draw_random
from meanflow_tune.search.space.load import load_space
from meanflow_tune.search.store.lease import Lease
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.study.ledger import Ledger
from tests.support.manifests import manifest
from tests.support.paths import TINY_SPACE
from tests.support.rungs import LEDGER

SPACE = str(TINY_SPACE)
WIDTHS = (80, 110)


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Columns of the terminal that the planner prints to."""
    columns: int = request.param
    monkeypatch.setattr(dry_run, "make_console", lambda: Console(width=columns, highlight=False))
    return columns


def asked(storage: Path, **changes: Any) -> SearchRequest:
    given = {"space": SPACE, "study": "s", "trials": 6, "storage": storage, "gpus_per_worker": 0.0}
    return SearchRequest(**(given | changes))


def shown(capsys: pytest.CaptureFixture[str], *arguments: Any, **more: Any) -> str:
    assert dry_run.dry_run(*arguments, **more) == 0
    return capsys.readouterr().out


def flat(text: str) -> str:
    """Without the line breaks of a narrow terminal."""
    return " ".join(text.split())


def begin(request: SearchRequest) -> None:
    """A study with one trial that completed: 10 ms an image, 3 s an evaluation."""
    plan = make_plan(request)
    with Lease.acquire(request.folder) as lease:
        manifest().write(request.folder)
        ledger = Ledger(
            storage=open_storage(request.folder / JOURNAL_NAME, lease.check),
            study_name=request.study,
            suggest=plan.suggest,
            baselines=plan.space.baselines,
            objectives=plan.objectives,
            rungs=plan.rungs,
            sampler="tpe",
            seed=0,
            total=request.trials,
            folder=request.folder,
            fence=lease.check,
            **LEDGER,
        )
        job = ledger.next()
        assert job is not None
        for index, images in enumerate((3200, 6400, 12_800)):
            wall = 0.01 * images
            metrics = {"teacher_gap@1": 0.5, "teacher_gap@2": 0.5}
            when = 1000.0 + wall + 3.0 * (index + 1)
            ledger.record(job.number, Report(images, metrics, {"wall_seconds": wall}, when))


def test_a_plan_without_a_measurement_names_no_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    text = shown(capsys, asked(tmp_path, time_budget=7200.0))
    words = flat(text)
    assert "Show that the whole path works." in words
    assert "geometric_mean(teacher_gap@1,teacher_gap@2), lower is better" in words
    assert "if loss/second_order/sign is -1 or 1 loss/second_order/size 0.001 to 0.3, log" in words
    assert "baselines to beat, never stopped: backward, backward_fast" in words
    assert "draw 1 draw 2 draw 3" in words
    assert "Resources per trial: 1 rank of 1 CPU, no GPU;" in words
    assert "trained once, before the first" in words
    assert "time: unknown, because nothing has been measured yet; --calibrate times" in words
    assert "--time-budget 2 h affords is unknown too" in words
    assert "Disk, counted from the networks" in words
    assert "does not fit" not in words
    assert words.endswith("Nothing was started.")
    assert max(map(len, text.splitlines())) <= width
    assert not re.search(r"\d m?s\b", words), "a time out of nowhere"
    assert not list(tmp_path.iterdir())


def test_rungs_and_totals_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    words = flat(shown(capsys, asked(tmp_path, scheduler="none", confirm=2, confirm_seeds=3)))
    assert "stopping: none, every trial runs to its end" in words
    assert "1 3,200 50 6 19,200 2 6,400 100 6 19,200 3 12,800 200 6 38,400" in words
    assert "search: about 76,800 images, 100 % of the 76,800 without early stopping" in words
    assert "confirmation: up to 9 runs of 12,800 images" in words


def test_a_study_that_has_begun_gives_the_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    """Whole trials of 128 + 9 s: six in two slots, one of them all but over."""
    request = asked(tmp_path, scheduler="none", max_concurrent=2, time_budget=600.0, confirm=0)
    begin(request)
    before = {p: p.read_bytes() for p in request.folder.rglob("*") if p.is_file()}
    words = flat(shown(capsys, request))
    assert {p: p.read_bytes() for p in request.folder.rglob("*") if p.is_file()} == before
    assert "times: measured in 1 trials of this study" in words
    assert "a whole trial 2 min; with 2 at once: search 7 min" in words  # 3 times 137 s
    assert "about 7 min in all with 2 at once" in words
    assert "the study holds 1 trials; about 6 min of the search is left" in words  # 5 times 68.5 s
    assert "--time-budget 10 min affords about 8 trials, enough for the 6 of --trials" in words


def test_a_calibration_gives_the_times(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """6 trials of 200 steps of 64 images: 100 ms a step, 3 evaluations of 1 s; 2 GB a checkpoint."""
    seen: list[Any] = []

    def calibrate(named: Any, baselines: int, *rest: Any) -> Calibration:
        seen.append(([name for name, _ in named], baselines))
        sizes = Sizes(2_000_000_000, 1_000_000, 500_000_000)
        good = Timing("draw 1", 64, (0.1, 0.1, 0.3), 0.0, 0.75, 0.25, sizes)
        bad = Timing("draw 2", 64, (), 0.0, 0.0, 0.0, None, "loss not finite at step 7")
        return Calibration("a toy", (good, good, bad), 1, 60.0, False, 0.0)

    monkeypatch.setattr(dry_run, "calibrate", calibrate)
    disk = namedtuple("disk", "total used free")(0, 0, 10_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    request = asked(tmp_path, scheduler="none", max_concurrent=1, confirm=0)
    words = flat(shown(capsys, request, calibrating=True))
    assert seen == [(["backward", "draw 1", "draw 2", "draw 3"], 1)]
    assert "Calibration on a toy" in words
    assert "draw 1 100.00 ms 100.00 to 300.00 ms 0.75 s 2.0 GB, 250 ms" in words
    assert "draw 2 could not be timed: loss not finite at step 7" in words
    assert "a whole trial 23 s; with 1 at once: search 2 min, teacher 60 s" in words
    assert "about 3 min in all with 1 at once" in words  # 6 times 23 s and 60 s
    assert "Disk, measured" in words
    assert "does not fit:" in words
    assert "choose a larger disk for --storage, --keep-checkpoints last, or fewer trials" in words
    assert "checkpoints 36 GB (--keep-checkpoints all)" in words  # 6 trials of 3 times 2 GB
    last = request.model_copy(update={"keep_checkpoints": "last"})
    words = flat(shown(capsys, last, calibrating=True))
    assert "checkpoints 28 GB (--keep-checkpoints last)" in words  # 4 times 3, and 2


def test_verbose_draws_the_families(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    text = shown(capsys, asked(tmp_path), verbose=True)
    assert max(map(len, text.splitlines())) <= width
    assert "Times (t, s)" in text
    assert "┐  uniform" in text


@pytest.mark.parametrize("columns", WIDTHS)
def test_plots_of_every_family_fit_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    space = load_space("second_order")
    drawn = [draw_random(space.suggest, seed).config for seed in range(dry_run.VARIETY)]
    show_plots(Console(width=columns), drawn)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= columns

    def some(pattern: str) -> bool:
        return any(re.match(pattern, line) for line in lines)

    for family in ("uniform", "logit_normal", "separate", "beta", "gap_first"):
        assert some(rf"  ┌─+┐  {family}\b"), family
    schedules = {kind.model_fields["kind"].default for kind in DS_SCHEDULE_KINDS}
    for family in schedules:
        assert some(rf"  {family} +[▁-█]{{16}}"), family
    assert some(r"  second_order +[▁-█]{16,} +0 → ")


def test_on_a_cluster_it_depends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    request = asked(
        tmp_path,
        cluster="10.0.0.1:6379",
        workers_per_trial=2,
        gpus_per_worker=None,
        scheduler="none",
    )
    begin(request)
    words = flat(shown(capsys, request))
    assert (
        "2 ranks of 1 CPU and a GPU where there are enough; how many run at once depends" in words
    )
    assert "about 27 min in all in one slot" in words  # 6 times 137 s, 6 times 131 s to confirm


def test_stopping_in_words(tmp_path: Path) -> None:
    text = stopping_text(asked(tmp_path, reduction=3, brackets=2, grace=6400, promotion=False))
    assert text == (
        "successive halving, the best 1/3 continue at each rung; 2 brackets; "
        "no trial is stopped before 6,400 images; "
        "5 % of the proposed trials are never stopped"
    )
    assert stopping_text(asked(tmp_path, scheduler="median", protect=0.0)) == (
        "a trial worse than the median at a rung is stopped"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.2 KB"), (12_345_678, "12 MB"), (2e12, "2.0 TB")],
)
def test_sizes_for_a_person(count: float, text: str) -> None:
    assert size(count) == text


def test_numbers_for_a_person() -> None:
    assert [rounded(x) for x in (12.4, 999.0, 1_495_669.3, 12_345)] == [
        "12",
        "999",
        "1,500,000",
        "12,300",
    ]
