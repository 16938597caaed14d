"""What a driver tells of its slots: the events, search.log, status.json, `--status` and the last screen."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.driver import driver
from meanflow_tune.plan.request import SearchRequest, UserError
from meanflow_tune.records import NO_TEACHER, Job
from meanflow_tune.report.state import status_file
from meanflow_tune.report.state.status_file import STATUS_NAME
from meanflow_tune.report.status import show_status
from meanflow_tune.search.store import storage
from tests.support.drivers.made_up import MadeUp, four_trials, replace_ray

HOST = "node7 (10.0.0.7)"
FAULT: dict[str, Any] = {
    "index": 0,
    "time": 1.7e9,
    "slot": "slot-1",
    "host": HOST,
    "number": 1,
    "lost": 1024,
    "cause": "the process of rank 1 died",
    "action": "restarts from 4,096 images on the next free slot in 1 s (attempt 2 of 4)",
}
LINE = (
    f"fault: slot-1 on {HOST}: the process of rank 1 died; trial 1 lost 1,024 images; restarts from "
    "4,096 images on the next free slot in 1 s (attempt 2 of 4)"
)


def slot(number: int | None, state: str, detail: str = "") -> dict[str, Any]:
    rank = {"host": HOST, "silent_s": 0.1, "memory": 2**30}
    return {
        "number": number,
        "state": state,
        "detail": detail,
        "state_s": 40.0,
        "silent_s": 0.1,
        "lost": False,
        "starts": 1,
        "hosts": [HOST],
        "ranks": {0: rank} if state == "running" else {},
    }


class Faulty(MadeUp):
    """Its second trial loses a slot, and another terminal asks for the status then."""

    def __init__(self, watch: Any) -> None:
        super().__init__()
        self.look = watch

    def train(self, stage: Any, job: Job) -> Any:
        if job.number == 1:
            snapshot = {
                "progress": {1: {"phase": NO_TEACHER, "images": 0, "of": 0}},
                "queued": [1],
                "retries": {1: {"due_s": 1.0, "cause": "the process of rank 1 died"}},
                "slots": {
                    "slot-0": slot(0, "running"),
                    "slot-1": slot(None, "waiting", "1 CPU on any host"),
                },
                "faults": [FAULT],
                "unusable": {},
            }
            for _ in range(2):
                stage.on_tick(snapshot)
            self.look()
        return super().train(stage, job)


def unread(*_: object, **__: object) -> None:
    raise AssertionError("the study was read")


def test_a_fault_is_told_everywhere_and_the_study_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request, running, seen = four_trials(tmp_path), [], []
    run = driver.Driver.run

    def remembered(self: driver.Driver) -> int:
        running.append(self)
        return run(self)

    def look() -> None:
        running[0].status.write()
        seen.append(capsys.readouterr().out)
        with monkeypatch.context() as patched:
            patched.setattr(storage, "open_storage", unread)
            patched.setenv("COLUMNS", "80")
            assert show_status(request) == 0
        seen.append(capsys.readouterr().out)

    replace_ray(monkeypatch, Faulty(look))
    monkeypatch.setattr(driver.Driver, "run", remembered)
    assert driver.run(request, "again") == 0
    events, status = seen
    assert events.count(LINE) == 1
    assert status[status.index("node7") :].splitlines()[:4] == [
        f"{HOST}  1.0 GiB",
        "  slot-0  running, trial 0",
        "  slot-1  waiting for 40 s: 1 CPU on any host",
        "1 fault:",
    ]
    flat = " ".join(status.split())
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(FAULT["time"]))
    assert f"{when} {LINE.removeprefix('fault: ')}" in flat
    for line in (
        "trial 1 for its retry in 1.0 s (the process of rank 1 died)",
        "slot 1 for 1 CPU on any host (for 40 s)",
        "trial 1 for the teacher",
        "2 not started",
    ):
        assert f" {line}" in flat[flat.index("waiting:") :]
    summary = f"1 fault: slot-1 on {HOST} (the process of rank 1 died); see"
    assert summary in " ".join(capsys.readouterr().out.split())
    assert summary in " ".join((tmp_path / "s" / "summary.txt").read_text().split())
    logged = (tmp_path / "s" / "search.log").read_text().splitlines()
    assert [line[20:] for line in logged].count(LINE) == 1
    assert any("trial 3 completed" in line for line in logged)


def shown(request: SearchRequest, capsys: pytest.CaptureFixture[str], **more: Any) -> str:
    capsys.readouterr()
    assert show_status(request, **more) == 0
    return capsys.readouterr().out


def test_when_the_study_itself_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whenever its driver's status may not be all of it, unless that takes long."""
    request = four_trials(tmp_path)
    replace_ray(monkeypatch, MadeUp())
    assert driver.run(request, "again", quiet=True) == 0
    reads: list[Any] = []
    read = storage.open_storage
    monkeypatch.setattr(storage, "open_storage", lambda *a: (reads.append(a), read(*a))[1])
    journal, path = tmp_path / "s" / "study.journal", tmp_path / "s" / STATUS_NAME
    written = path.read_text()
    text = shown(request, capsys)
    assert reads == []
    assert shown(request, capsys, everything=True) == text
    assert len(reads) == 1
    # Of an earlier revision.
    old = json.loads(written)
    for key in ("search", "trials", "source", "slots", "faults", "waiting", "trials_asked"):
        del old[key]
    path.write_text(json.dumps(old))
    assert shown(request, capsys) == text
    assert len(reads) == 2
    # Named elsewhere.
    path.write_text(written)
    with pytest.raises(UserError, match="there is no study 's'"):
        show_status(
            request.model_copy(update={"study_storage": f"sqlite:///{tmp_path / 'other.db'}"})
        )
    # Longer than when its driver wrote the status, which then was killed.
    with open(journal, "ab") as file:
        file.write(b'{"op_code":1')
    count = len(reads)
    assert shown(request, capsys) == text
    assert len(reads) == count + 1
    monkeypatch.setattr(status_file, "READ_BYTES", 10)
    late = " ".join(shown(request, capsys).split())
    assert len(reads) == count + 1
    assert "when the driver wrote its last status; --status --all reads the study itself" in late


def test_a_status_needs_no_library_that_takes_seconds_to_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = four_trials(tmp_path)
    replace_ray(monkeypatch, MadeUp())
    assert driver.run(request, "again", quiet=True) == 0
    program = (
        "import sys; from meanflow_tune.driver.tune_command import main; "
        f"assert main(['--status', '--study', 's', '--storage', {str(tmp_path)!r}]) == 0; "
        "print(sorted({'torch', 'optuna', 'ray', 'mlflow', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.splitlines()[-1] == "[]"
