"""A whole search in miniature without Ray: plan, ledger, training, confirmation and the files it leaves.

The same with real Ray, MLflow and kills is in tests/end_to_end/.
"""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from meanflow_tune.config import TrialConfig
from meanflow_tune.plan import confirm
from meanflow_tune.plan.findings import Findings, find
from meanflow_tune.plan.plan import Plan, make_plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Report
from meanflow_tune.report import summary
from meanflow_tune.report.result_files import write_files
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.study.ledger import Ledger
from meanflow_tune.training.job import run_job
from tests.support.paths import TINY_SPACE
from tests.support.rungs import LEDGER, make_rungs
from tests.support.tiny_run import Memory

SPACE = TINY_SPACE
TRIALS = 6


def run_all(ledger: Ledger, cache: Path) -> None:
    """As the driver does, in this process."""
    while (job := ledger.next()) is not None:
        reporter = Memory(decide=partial(decide, ledger, job.number))
        ledger.finish(job.number, run_job(job, 0, 1, "cpu", reporter, cache=str(cache)))


def decide(ledger: Ledger, number: int, report: Report) -> bool:
    return ledger.record(number, report).go_on


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Findings]:
    storage = tmp_path_factory.mktemp("miniature")
    settings = ("budget.images=3840", "teacher.budget.images=2560")
    request = SearchRequest(
        space=str(SPACE), study="mini", trials=TRIALS, storage=storage, settings=settings
    )
    plan = make_plan(request)
    journal = open_storage(request.folder / "study.journal", lambda: None)
    common: dict[str, Any] = {
        "storage": journal,
        "objectives": plan.objectives,
        "seed": 0,
        "fence": lambda: None,
    }
    common = LEDGER | common
    ledger = Ledger(
        study_name="mini",
        suggest=plan.suggest,
        baselines=plan.space.baselines,
        rungs=make_rungs(reduction=2.0),
        sampler="tpe",
        total=TRIALS,
        folder=request.folder,
        **(common | {"startup_trials": 3, "repeats": 1}),
    )
    run_all(ledger, request.teachers)
    ledger.end()
    found = find(plan, ledger.records(), [])
    assert found.best_proposed is not None
    assert found.reference is not None
    chosen = confirm.sides(ledger.records(), plan.space, plan.objectives, 1)
    wanted = confirm.entries(chosen, [], plan.objectives, 0, 2)
    again = Ledger(
        study_name="mini/confirm",
        suggest=confirm.suggester(ledger.records(), wanted, 0),
        baselines={entry.name: entry.params for entry in wanted},
        rungs=None,
        sampler="random",
        total=len(wanted),
        folder=request.folder / "confirm",
        **common,
    )
    run_all(again, request.teachers)
    return plan, find(plan, ledger.records(), again.records())


def test_every_trial_ends_and_baselines_are_whole(searched: tuple[Plan, Findings]) -> None:
    records = searched[1].records
    assert [record.number for record in records] == list(range(TRIALS))
    assert {record.status for record in records} <= {"completed", "pruned"}
    assert [record.status for record in records[:2]] == ["completed"] * 2
    assert all(len(record.reports) == 3 for record in records if record.status == "completed")


def test_settings_reach_every_configuration(searched: tuple[Plan, Findings]) -> None:
    assert {record.config["budget"]["images"] for record in searched[1].records} == {3840}


def test_the_baseline_is_the_best_of_its_learning_rates(
    searched: tuple[Plan, Findings],
) -> None:
    plan, found = searched
    values = {r.baseline: r.value for r in found.records if r.baseline in plan.space.reference}
    assert len(values) == 2
    assert found.reference is not None
    assert found.reference.value == min(values.values())  # type: ignore[type-var]


def test_survivors_are_repeated_on_one_seed_before_they_are_told(
    searched: tuple[Plan, Findings],
) -> None:
    _, found = searched
    repeated = [record for record in found.records if record.repeats]
    assert repeated
    assert all(record.status == "completed" for record in repeated)
    assert any(not record.repeats for record in found.records), "not all survive"
    seeds = {
        json.loads((Path(r.folder) / "repeats" / "1" / "config.json").read_text())["seed"]
        for r in repeated
    }
    assert len(seeds) == 1
    for record in repeated:
        (again,) = record.repeats
        assert again.images == record.reports[-1].images
        assert again.metrics["teacher_gap@1"] != record.reports[-1].metrics["teacher_gap@1"]
        assert record.values == record.rung_values[-1], "its value stays that of its own run"


def test_the_confirmation_is_paired(searched: tuple[Plan, Findings]) -> None:
    _, found = searched
    baseline, best = found.rows
    assert len(baseline.seeds) == 2
    assert baseline.against == {}
    runs = {(r.params["candidate"], r.params["seed"]): r for r in found.confirmed}
    assert found.best_proposed is not None
    assert found.reference is not None
    differences = [
        runs[found.best_proposed.number, seed].reports[-1].metrics["teacher_gap@1"]
        - runs[found.reference.number, seed].reports[-1].metrics["teacher_gap@1"]
        for seed in baseline.seeds
    ]
    told = best.against["teacher_gap@1"]
    assert told.mean == pytest.approx(sum(differences) / 2, abs=1e-12)
    assert (told.low, told.high) == pytest.approx((min(differences), max(differences)))
    assert {r.config["evaluation"]["latent_seed"] for r in found.confirmed} != {20_000}


def test_files_and_summary(searched: tuple[Plan, Findings]) -> None:
    plan, found = searched
    files = write_files(plan, found)
    assert [path.name for path in files] == [
        "results.parquet",
        "metrics.parquet",
        "best.json",
        "best.png",
        "report.html",
    ]
    frame = pd.read_parquet(files[0])
    rows = sum(len(r.reports) + len(r.repeats) for r in [*found.records, *found.confirmed])
    assert len(frame) == rows
    assert TrialConfig.from_dict(json.loads(files[2].read_text()))
    assert files[3].read_bytes()[:4] == b"\x89PNG"
    text = io.StringIO()
    console = Console(file=text, width=120)
    summary.show(console, plan, found)
    summary.show_places(console, plan.request, files, "python scripts/tune.py --trials 6")
    printed = " ".join(text.getvalue().split())
    assert found.winner is not None
    assert (found.winner.seeds, found.winner.images[0]) == (2, found.winner.images[1])
    assert f"Trial {found.winner.trials[1]} (" in printed
    assert "chance alone makes a number lean to better once in 4 times" in printed
    assert "Cost: the same images" in printed
    assert "--trials 10" in printed, "the command that extends the search"
    for metric in ("teacher_gap@1", "teacher_gap@2"):
        assert any(f"({word})" in printed for word in ("leans better", "leans worse", "unclear"))
        assert metric in printed
