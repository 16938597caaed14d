"""A kill anywhere: the journal cut at any byte, and real processes killed, give the same search."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.search.store.storage import JOURNAL_NAME
from tests.support.paths import ROOT
from tests.support.sampler_history import SLOW_GP_KINDS
from tests.support.studies import make_ledger, outcome_of, run_all, run_job, suggest


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_all(make_ledger(folder))
    return folder


def resume_from(lines: list[bytes], torn: bytes, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    (folder / JOURNAL_NAME).write_bytes(b"".join(lines) + torn)
    run_all(make_ledger(folder))
    outcome = outcome_of(folder)
    shutil.rmtree(folder)
    return outcome


def test_the_toy_search_has_every_kind_of_end(whole: Path) -> None:
    outcome = outcome_of(whole)
    assert {one["status"] for one in outcome} == {"completed", "pruned", "diverged"}
    lines = (whole / JOURNAL_NAME).read_text()
    assert "tpe:relative_params" in lines  # some trials were modelled, not only drawn


def check_cuts(whole: Path, folder: Path, every: int) -> None:
    """All state is in the journal, so a kill after write n leaves exactly its first n lines."""
    lines = (whole / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    expected = outcome_of(whole)
    for n in range(0, len(lines) + 1, every):
        torn = lines[n][: len(lines[n]) // 2] if n < len(lines) else b""
        assert resume_from(lines[:n], torn, folder / "cut") == expected, f"killed at line {n}"


@pytest.mark.filterwarnings("error")
def test_killed_after_some_writes(whole: Path, tmp_path: Path) -> None:
    check_cuts(whole, tmp_path, every=11)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_killed_after_every_single_write(whole: Path, tmp_path: Path) -> None:
    check_cuts(whole, tmp_path, every=1)


@pytest.mark.parametrize("sampler", [k for k in SLOW_GP_KINDS if k != "tpe"])
def test_killed_with_another_sampler(sampler: str, tmp_path: Path) -> None:
    """Twelve trials, so that CMA-ES makes a step."""
    settings: dict[str, Any] = {"sampler": sampler, "total": 12}
    run_all(make_ledger(tmp_path, **settings))
    if sampler == "cmaes":
        assert '"told"' in (tmp_path / JOURNAL_NAME).read_text()
    lines = (tmp_path / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    expected = outcome_of(tmp_path)
    for n in range(7, len(lines), len(lines) // 5):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / JOURNAL_NAME).write_bytes(b"".join(lines[:n]))
        run_all(make_ledger(folder, **settings))
        assert outcome_of(folder) == expected, f"killed at line {n}"


@pytest.mark.parametrize("drawn", [1, 2, 3])
def test_killed_in_the_middle_of_a_modelled_ask(whole: Path, tmp_path: Path, drawn: int) -> None:
    """The parameters stored before the kill stay, and the others are what they would have been."""
    killed_at = 5

    def interrupted(trial: Any) -> dict[str, Any]:
        if trial.number == killed_at:
            for name in ("x", "kind", "z")[:drawn]:
                if name == "kind":
                    trial.suggest_categorical("kind", ["plain", "bent", "dead"])
                else:
                    trial.suggest_float(name, *((-1.0, 1.0) if name == "x" else (0.0, 1.0)))
            raise Killed
        return suggest(trial)

    with pytest.raises(Killed):
        run_all(make_ledger(tmp_path, suggest=interrupted))
    run_all(make_ledger(tmp_path))
    assert outcome_of(tmp_path) == outcome_of(whole)


def test_an_interrupted_ask_is_completed_before_anything_else_is_recorded(tmp_path: Path) -> None:
    """Two slots: what the other trial reports after a resume must not change the ask's history."""

    def interrupted(trial: Any) -> dict[str, Any]:
        if trial.number == 6:
            raise Killed
        return suggest(trial)

    def drive(folder: Path, function: Any) -> Any:
        ledger = make_ledger(folder, suggest=function)
        for _ in range(5):
            job = ledger.next()
            assert job is not None
            run_job(ledger, job)
        ledger.next()  # number 5 runs on while number 6 is asked for
        return ledger.next()

    with pytest.raises(Killed):
        drive(tmp_path / "killed", interrupted)
    job = drive(tmp_path / "whole", suggest)
    ledger = make_ledger(tmp_path / "killed")
    assert ledger.record_of(6).config == job.config
    first, second = ledger.next(), ledger.next()
    assert first is not None
    assert second is not None
    assert (first.number, first.attempt) == (5, 1)
    assert (second.number, second.attempt) == (6, 0)


DRIVER = """
import sys
from pathlib import Path
from meanflow_tune.search.store.lease import Lease
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from tests.support.studies import make_ledger, run_all
folder = Path(sys.argv[1])
with Lease.acquire(folder) as lease:
    storage = open_storage(folder / JOURNAL_NAME, lease.check, recover=lease.taken_over)
    run_all(make_ledger(folder, storage=storage, fence=lease.check, epoch=lease.epoch))
"""


@pytest.mark.slow
def test_real_processes_killed(whole: Path, tmp_path: Path) -> None:
    journal = tmp_path / JOURNAL_NAME
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    root = ROOT
    kills = 0
    for target in (300, 9_000, 16_000, 22_000):  # bytes of journal at which the driver dies
        driver = subprocess.Popen(command, cwd=root)
        while driver.poll() is None:
            if journal.exists() and journal.stat().st_size > target:
                os.kill(driver.pid, signal.SIGKILL)
                break
            time.sleep(0.0005)
        kills += driver.wait() == -signal.SIGKILL
    assert kills >= 2
    subprocess.run(command, cwd=root, check=True)
    assert outcome_of(tmp_path) == outcome_of(whole)
