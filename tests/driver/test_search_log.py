"""search.log, and the faults that a driver tells."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.driver.search_log import KEPT, LOG_NAME, SearchLog
from meanflow_tune.report.live import View
from meanflow_tune.report.state.status_file import STATUS_NAME
from meanflow_tune.search.errors import LeaseLost


def fault(index: int, number: int | None = 7) -> dict[str, Any]:
    return {
        "index": index,
        "time": 1.0,
        "slot": "slot-0",
        "host": "node7",
        "number": number,
        "lost": 1024,
        "cause": f"cause {index}",
        "action": "restarts",
    }


def title(number: int) -> str:
    return f"trial {number}"


def test_each_fault_is_told_once(tmp_path: Path) -> None:
    log = SearchLog(tmp_path, print)
    assert log.summary() == ""
    first = log.take([fault(0), fault(1, None)], title)
    assert first == [
        "fault: slot-0 on node7: cause 0; trial 7 lost 1,024 images; restarts",
        "fault: slot-0 on node7: cause 1; restarts",
    ]
    # The broker repeats what it does not know to have arrived, also to the next stage.
    assert log.take([fault(1), fault(2)], lambda n: f"confirmation {n}") == [
        "fault: slot-0 on node7: cause 2; confirmation 7 lost 1,024 images; restarts"
    ]
    assert log.state()["total"] == 3
    assert log.summary().startswith("3 faults: slot-0 on node7 (cause 0), ")
    assert log.summary().endswith(str(tmp_path / LOG_NAME))


def test_the_last_faults_of_earlier_drivers_stay(tmp_path: Path) -> None:
    before = SearchLog(tmp_path, print)
    before.take([fault(k) for k in range(30)], title)
    (tmp_path / STATUS_NAME).write_text(json.dumps({"faults": before.state()}))
    log = SearchLog(tmp_path, print)
    assert log.summary() == "", "of this run of the command"
    log.take([fault(0)], title)
    assert log.state()["total"] == 31
    assert len(log.state()["last"]) == KEPT
    assert log.summary().startswith("1 fault: ")


@pytest.mark.parametrize("content", ["", "[]", '{"faults": 3}', "[" * 100_000, '{"time": 1}'])
def test_any_status_of_an_earlier_driver_will_do(tmp_path: Path, content: str) -> None:
    (tmp_path / STATUS_NAME).write_text(content)
    assert SearchLog(tmp_path, print).state() == {"total": 0, "last": []}


def test_what_a_user_is_told_is_logged_line_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view = View(quiet=True)
    view.log = SearchLog(tmp_path, view.error).write
    view.event("trial 0 started\x1b[2J\nand more", "failed")
    view.error("no answer from http://me:secret@host/mlflow")
    lines = (tmp_path / LOG_NAME).read_text().splitlines()
    told = ["trial 0 started and more", "no answer from http://***@host/mlflow"]
    assert [line[20:] for line in lines] == told
    assert lines[0][:2] == "20"
    assert capsys.readouterr().out == ""


def test_a_log_that_cannot_be_written_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / LOG_NAME).mkdir()
    view = View(quiet=True)
    view.log = SearchLog(tmp_path, view.error).write
    for _ in range(3):
        view.event("x")
    assert capsys.readouterr().err.count("could not write search.log") == 1


def test_the_log_has_each_command_and_how_it_ended(tmp_path: Path) -> None:
    log = SearchLog(tmp_path, print)

    def mine() -> None: ...

    def lost() -> None:
        raise LeaseLost("another driver took over")

    with log.run("tune.py --study-storage postgresql://me:secret@db/x", mine) as ended:
        ended(130)
    with pytest.raises(OSError), log.run("tune.py", mine):
        raise OSError("no space")
    with pytest.raises(KeyboardInterrupt), log.run("tune.py", mine):
        raise KeyboardInterrupt
    with pytest.raises(LeaseLost), log.run("tune.py", lost):
        lost()
    lines = [line[20:] for line in (tmp_path / LOG_NAME).read_text().splitlines()]
    begin = f"process {os.getpid()} on {socket.gethostname()}: tune.py"
    assert lines == [
        f"{begin} --study-storage postgresql://***@db/x",
        "ended with status 130",
        begin,
        "ended: no space",
        begin,
        "ended: KeyboardInterrupt",
        begin,  # the log is the other driver's by now
    ]
