"""Faults around a whole search with real Ray and MLflow: a full disk, a driver that slept too long."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.disks import fill, small_disk
from tests.support.paths import PROCESSES
from tests.support.processes.commands import (
    ROOT,
    assert_agreement,
    command,
    environment,
    run,
    states,
    study,
    too_busy,
    wait_for,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(2400)]

TRIALS = 6
OPTIONS = ("--confirm-seeds=0", "--max-concurrent=1")


def start(storage: Path, said: Path, script: Path | None = None) -> subprocess.Popen[bytes]:
    arguments = command(storage, *OPTIONS, trials=TRIALS)
    if script is not None:
        arguments = [sys.executable, str(script), *arguments[2:]]
    with said.open("w") as file:
        return subprocess.Popen(
            arguments,
            env=environment(PYTHONPATH=str(ROOT)),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=storage.parent,
        )


def searching(storage: Path, said: Path) -> subprocess.Popen[bytes]:
    """A driver that has finished its first trial."""
    while True:
        driver = start(storage, said)
        while driver.poll() is None:
            with suppress(KeyError, ValueError, OSError):
                if "COMPLETE" in states(storage).values():
                    return driver
            time.sleep(0.2)
        assert too_busy(driver.poll(), said.read_text()), said.read_text()


def until(condition: Callable[[], bool], driver: subprocess.Popen[bytes], said: Path) -> None:
    while not condition():
        assert driver.poll() is None, said.read_text()
        time.sleep(0.1)


def test_a_full_disk_pauses_the_search_which_goes_on_by_itself(tmp_path: Path) -> None:
    """Everything of the search is on it: journal, lease, outbox, MLflow, checkpoints, samples."""
    with small_disk(tmp_path / "disk", 64) as disk:
        storage, said = disk / "runs", tmp_path / "said"

        def told(word: str) -> int:
            return said.read_text().count(word)

        driver = searching(storage, said)
        filler = fill(disk)
        until(lambda: told("no space left for") == 1, driver, said)
        time.sleep(5.0)
        assert driver.poll() is None
        # One message, which names the place; what was stored is whole.
        assert told("no space left for") == 1
        line = next(x for x in said.read_text().splitlines() if "no space left for" in x)
        assert str(storage) in line
        assert "0.0 MB free" in line
        assert (storage / "tiny_space" / "study.journal").read_bytes().endswith(b"\n")
        filler.unlink()
        until(lambda: told("again: the search continues") >= 1, driver, said)
        finished = sum(state != "RUNNING" for state in states(storage).values())
        wait_for(storage, driver, finished + 1)
        # Again, and this time a person gives up.
        filler, before = fill(disk), told("no space left for")
        until(lambda: told("no space left for") > before, driver, said)
        driver.send_signal(signal.SIGINT)
        assert driver.wait() == 130, said.read_text()
        assert "Traceback" not in said.read_text(), said.read_text()
        assert "Resume with" in said.read_text()
        filler.unlink()
        while too_busy(status := start(storage, said).wait(), said.read_text()):
            pass
        assert status == 0, said.read_text()
        assert_agreement(storage, TRIALS)
        for trial in study(storage).trials:
            reports = [key for key in trial.user_attrs if key.startswith("report/")]
            assert len(reports) == len(trial.intermediate_values) >= 1


def files_of(folder: Path) -> dict[str, str]:
    """Every finished file of a study with its content's hash, but the lock that a reader may touch.

    A picture that was just being drawn may be dropped: its temporary file is no part of the study.
    """
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lease.lock" and path.suffix != ".tmp"
    }


def test_a_driver_that_slept_while_another_took_over_writes_nothing_more(tmp_path: Path) -> None:
    """Two drivers resuming one stock experiment are not refused: 8 trials became 12 directories."""
    storage, folder = tmp_path / "runs", tmp_path / "runs" / "tiny_space"
    sleeper = searching(storage, tmp_path / "sleeper")
    try:
        sleeper.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOWAIT)
        # From the same host: it is alive, so it is named, with what to do.
        refused = run(command(storage, *OPTIONS, trials=TRIALS))
        assert refused.returncode == 4
        assert f"kill -CONT {sleeper.pid}" in refused.stderr
        # From another one its lease is stale after a while.
        past = time.time() - 60.0
        os.utime(folder / "lease.json", (past, past))
        other = PROCESSES / "replaced.py"
        said = tmp_path / "successor"
        while too_busy(status := start(storage, said, other).wait(), said.read_text()):
            pass
        assert status == 0, said.read_text()
        before = files_of(folder)
        sleeper.send_signal(signal.SIGCONT)
        assert sleeper.wait() == 4, (tmp_path / "sleeper").read_text()
    finally:
        sleeper.kill()
        sleeper.wait()
    last_words = (tmp_path / "sleeper").read_text()
    assert "Traceback" not in last_words, last_words
    assert "the lease of" in last_words.splitlines()[-1]
    assert files_of(folder) == before
    # It may have slept in the middle of a transaction, which locked MLflow's database for all others:
    # what then waited in the outbox is sent by the next run of the command.
    done = run(command(storage, *OPTIONS, trials=TRIALS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting Ray" not in done.stdout
    assert_agreement(storage, TRIALS)
    # What it had begun was given to its successor under a new epoch, each trial under its number.
    assert [trial.number for trial in study(storage).trials] == list(range(TRIALS))
