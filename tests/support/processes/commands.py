"""Running scripts/tune.py as a user does, and reading its files."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from meanflow_tune.search.store.trials import current_name
from tests.support.paths import ROOT, TINY_SPACE

SPACE = TINY_SPACE
TRIALS = 6


def command(storage: Path, *options: str, trials: int = 6) -> list[str]:
    """The command line of a search over the tiny space."""
    return [
        sys.executable,
        str(ROOT / "scripts" / "tune.py"),
        f"--space={SPACE}",
        f"--storage={storage}",
        f"--trials={trials}",
        *options,
    ]


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "OPTUNA_"))}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def run(
    arguments: list[str], timeout: float = 600, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        cwd=storage_of(arguments).parent,
    )


def storage_of(arguments: list[str]) -> Path:
    return Path(next(a for a in arguments if a.startswith("--storage=")).partition("=")[2])


def study(storage: Path, name: str = "tiny_space") -> optuna.Study:
    """The study as Optuna itself reads it."""
    journal = JournalStorage(JournalFileBackend(str(storage / "tiny_space" / "study.journal")))
    return optuna.load_study(study_name=current_name(journal, name), storage=journal)


def states(storage: Path, name: str = "tiny_space") -> dict[int, str]:
    return {trial.number: trial.state.name for trial in study(storage, name).trials}


def table(storage: Path) -> pd.DataFrame:
    return pd.read_parquet(storage / "tiny_space" / "results.parquet")


def mlflow_runs(storage: Path, name: str = "tiny_space") -> list[Any]:
    """The runs of a study: of a search its own and those of its trials, of `SEARCH/confirm` those below
    the search that confirm it."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    search, _, part = name.partition("/")
    found = client.get_experiment_by_name(search)
    assert found is not None
    runs = list(client.search_runs([found.experiment_id], max_results=1000))
    place = {run.info.run_id for run in runs if "meanflow_tune.search" in run.data.tags}
    chosen = [run for run in runs if ("/confirm/" in _trial(run)) == bool(part)]
    for run in chosen if part else ():
        assert run.data.tags["mlflow.parentRunId"] in place
    return chosen


def _trial(run: Any) -> str:
    return str(run.data.tags.get("meanflow_tune.trial", ""))


def assert_agreement(storage: Path, trials: int, name: str = "tiny_space") -> None:
    """Study, Parquet table and MLflow hold the same trials in the same states, each once."""
    known = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}
    expected = {number: known[state] for number, state in states(storage, name).items()}
    assert sorted(expected) == list(range(trials))
    frame = table(storage)
    frame = frame[frame["study"] == name]
    assert not frame.duplicated(["number", "repeat", "rung"]).any(), "a rung twice in the table"
    assert dict(zip(frame["number"], frame["status"], strict=True)) == expected
    runs = mlflow_runs(storage, name)
    tags = Counter(run.data.tags.get("meanflow_tune.trial", "search") for run in runs)
    assert max(tags.values()) == 1, f"a trial has two MLflow runs: {tags}"
    assert len(runs) == trials + (0 if "/" in name else 1), "the run of the search itself"
    in_mlflow = {
        int(run.data.tags["meanflow_tune.trial"].rpartition("/")[2]): run.data.tags["state"]
        for run in runs
        if "meanflow_tune.trial" in run.data.tags
    }
    assert in_mlflow == expected


def status_file(storage: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((storage / "tiny_space" / "status.json").read_text())
    return data


def too_busy(status: int | None, said: str) -> bool:
    """Whether a driver ended because Ray did not come up within its own 30 s.

    A loaded machine does that; it says nothing about what a test asks, which then begins again.
    """
    return status == 5 and "Ray does not start on this machine" in said


def wait_for(storage: Path, driver: subprocess.Popen[bytes], finished: int) -> None:
    """Until `finished` trials of the study have ended."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and driver.poll() is None:
        try:
            now = sum(state in ("COMPLETE", "PRUNED") for state in states(storage).values())
        except (KeyError, ValueError, OSError):
            now = 0
        if now >= finished:
            return
        time.sleep(0.2)
    pytest.fail(f"{finished} trials never finished (driver: {driver.poll()})")
