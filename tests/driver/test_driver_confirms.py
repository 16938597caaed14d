"""A driver's search with its confirmation, without Ray and MLflow: what runs, and what is never run twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from meanflow_tune.driver import driver
from meanflow_tune.driver.stage import Stage
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Outcome, Report
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.trials import read_records
from tests.support.paths import TINY_SPACE
from tests.support.sinks import RecordingSink

TINY = TINY_SPACE


class Runner:
    """Runs jobs in the driver's process; how good a configuration is depends on its learning rate."""

    description = "no Ray"
    slots = 1
    jobs: list[tuple[str, int, int]] = []  # study, seed, repeat

    @classmethod
    @contextmanager
    def start(cls, **options: Any) -> Iterator["Runner"]:
        yield cls()

    def search(self, stage: Stage, name: str, interrupt: Any) -> None:
        while not interrupt.requested and (job := stage.next_job()) is not None:
            config = job.config
            images = config["budget"]["images"]
            own = [round(rung * images) for rung in config["budget"]["rungs"]]
            go_on = True
            for rung in own:
                go_on = stage.on_report(job.number, self.report(config, config["seed"], rung))
                if not go_on:
                    break
            self.jobs.append((job.study, config["seed"], 0))
            for k, seed in enumerate(job.repeats if go_on else (), start=1):
                self.jobs.append((job.study, seed, k))
                stage.on_report(job.number, self.report(config, seed, images, k))
            ended = "completed" if go_on or rung == own[-1] else "pruned"
            stage.on_end(job.number, Outcome(ended))

    @staticmethod
    def report(config: dict[str, Any], seed: int, images: int, repeat: int = 0) -> Report:
        rate = config["optimizer"]["learning_rate"]
        gap = 0.1 + abs(rate - 0.009) + (seed % 5) * 0.001 + 1.0 / images
        metrics = {"teacher_gap@1": gap, "teacher_gap@2": gap}
        return Report(images, metrics, {"cpu_seconds": 1.0}, 0.0, repeat=repeat)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "Runner", Runner)
    monkeypatch.setattr(driver, "MlflowSink", RecordingSink)
    monkeypatch.setattr(Runner, "jobs", [])


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """The tiny space with a reference of one learning rate, and another baseline of one."""
    text = TINY.read_text()
    both = 'REFERENCE = ("backward", "backward_fast")'
    assert both in text
    path = tmp_path / "tiny_space.py"
    path.write_text(text.replace(both, 'REFERENCE = ("backward",)'))
    return path


def search(tmp_path: Path, space: Path, **changes: Any) -> int:
    settings = {"trials": 6, "scheduler": "none", "confirm": 2, "confirm_seeds": 2, "repeats": 1}
    request = SearchRequest(space=str(space), study="s", storage=tmp_path, **(settings | changes))
    return driver.run(request, "again", quiet=True)


def confirmed(tmp_path: Path) -> list[Any]:
    journal = open_storage(tmp_path / "s" / "study.journal")
    return read_records(journal, "s/confirm", tmp_path / "s" / "confirm")


def test_tuning_is_followed_by_what_it_settles_in_one_command(
    tmp_path: Path, space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(tmp_path, space) == 0
    records = confirmed(tmp_path)
    tuned = [
        r for r in records if len(r.params) == 3 and r.config["seed"] == records[0].config["seed"]
    ]
    assert len(tuned) == 6
    assert len(records) == 6 + (2 + 2) * 2, "two baselines and two trials, on two seeds"
    assert {record.status for record in records} == {"completed"}
    # Of 0.003 the best multiple is 3, of 0.01 its own: nearest to 0.009.
    rates = {r.config["optimizer"]["learning_rate"] for r in records if r not in tuned}
    assert 0.009 in {round(rate, 9) for rate in rates}
    assert 0.01 in rates
    printed = " ".join(capsys.readouterr().out.split())
    assert "at 3 x its learning rate" in printed
    assert "by paired differences on 2 seeds; best.json holds" in printed
    frame = pd.read_parquet(tmp_path / "s" / "results.parquet")
    assert not frame.duplicated(["study", "number", "repeat", "rung"]).any()
    assert (frame["repeat"] == 1).sum() == len([job for job in Runner.jobs if job[2] == 1])


def test_the_same_command_again_runs_nothing_and_more_seeds_add_only_themselves(
    tmp_path: Path, space: Path
) -> None:
    search(tmp_path, space, confirm=1)
    first = [(r.number, r.baseline, r.values) for r in confirmed(tmp_path)]
    # On two seeds: the reference, a better baseline of another family, and the best proposed trial.
    assert len(first) == 6
    ran = len(Runner.jobs)
    assert search(tmp_path, space, confirm=1) == 0
    assert len(Runner.jobs) == ran
    search(tmp_path, space, confirm=2, confirm_seeds=3)
    records = confirmed(tmp_path)
    assert [(r.number, r.baseline, r.values) for r in records[:6]] == first
    names = [record.baseline for record in records]
    assert len(set(names)) == len(names)
    assert len(Runner.jobs) == ran + len(records) - len(first)


def test_survivors_get_the_same_further_seeds_and_the_others_none(
    tmp_path: Path, space: Path
) -> None:
    search(tmp_path, space, repeats=2, confirm=0)
    repeats = [(seed, k) for study, seed, k in Runner.jobs if k]
    assert len({seed for seed, k in repeats if k == 1}) == 1
    assert len(set(repeats)) == 2
    assert 0 < len(repeats) < 2 * 6
    assert not (tmp_path / "s" / "confirm").exists()
