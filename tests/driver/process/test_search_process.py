"""A search in a child process: what the parent makes of its ends. Each case is a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT

CODE = """
import os, signal, sys, time
from meanflow_tune.driver.process.search_process import Ending, run_in_child
def search(report):
{body}
ending = run_in_child(search)
print(ending)
"""


def start(body: str) -> subprocess.Popen[str]:
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    return subprocess.Popen(
        [sys.executable, "-c", CODE.format(body=indented)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    "body, expected",
    [
        ("report(Ending(3, 'why')); return 3", "Ending(status=3, error='why', lost='')"),
        ("report(Ending(5, lost='head')); os._exit(1)", "lost='head'"),
        (
            "report(Ending(5, lost='head')); report(Ending(0)); os._exit(0)",  # from two threads
            "lost='head'",
        ),
        ("os._exit(1)", "lost='the connection to the Ray cluster broke"),
        ("os.abort()", "lost='the connection to the Ray cluster broke"),
    ],
)
def test_ends(body: str, expected: str) -> None:
    process = start(body)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert expected in said


def test_a_killed_child_ends_its_parent_alike() -> None:
    process = start("os.kill(os.getpid(), signal.SIGKILL)")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_a_signal_to_the_parent_reaches_the_child_and_one_to_both_once(tmp_path: Path) -> None:
    """From a terminal or `kill`, and from `timeout`, which sends it to the child as well."""
    seen = tmp_path / "seen"
    body = f"""
from meanflow_tune.cluster.signals import Interrupt
with Interrupt() as interrupt:
    open({str(seen)!r}, "w").close()
    while not interrupt.requested: time.sleep(0.01)
    time.sleep(0.5)  # a second one would raise
report(Ending(130)); return 130
"""
    for whole_group in (False, True):
        process = start(body)
        while not seen.exists():
            assert process.poll() is None
            time.sleep(0.01)
        seen.unlink()
        os.kill(process.pid, signal.SIGTERM)
        if whole_group:
            os.killpg(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
        assert "Ending(status=130" in said


def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    process = start(f"open({str(path)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    while not (path.exists() and path.read_text()):
        time.sleep(0.01)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{path.read_text()}/status").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
