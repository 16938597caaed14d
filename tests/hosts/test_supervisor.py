"""deploy/ray-worker-supervisor with programs in place of Ray: restarts, one at a time, and a clean end."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.hosts.namespaces import wait_until
from tests.support.paths import ROOT

SUPERVISOR = ROOT / "deploy" / "ray-worker-supervisor"

# Notes its arguments, leaves a child in a session of its own and a file, as a raylet does, and waits.
RAY = """#!/bin/sh
echo "$@" >> {calls}
mkdir -p {folder}/ray && touch {folder}/ray/session
setsid sleep 600 &
trap 'echo stopped >> {calls}; exit 0' TERM
while ! [ -e {die} ]; do sleep 0.05; done
rm {die}
exit 7
"""
# What the supervisor asks a head with: whether it knows the node.
PYTHON = """#!/bin/sh
cat > /dev/null
echo asked >> {calls}
exit $(cat {answer})
"""


class Supervised:
    """A supervisor whose programs are fakes. calls: what the fake Ray was asked."""

    def __init__(self, folder: Path, head: int) -> None:
        self.folder, self.head = folder / "s", head
        self.calls, self.die, self.log = folder / "calls", folder / "die", folder / "log"
        self.answer = folder / "answer"
        self.calls.touch()
        for name, text in (("ray", RAY), ("python", PYTHON)):
            program = folder / name
            fields = {"calls": self.calls, "folder": self.folder, "die": self.die}
            program.write_text(text.format(**fields, answer=self.answer))
            program.chmod(0o755)
        self.programs = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, **settings: str) -> "subprocess.Popen[bytes]":
        known = {
            "SUPERVISOR_HEAD": f"127.0.0.1:{self.head}",
            "SUPERVISOR_FOLDER": str(self.folder),
            "SUPERVISOR_RAY": str(self.programs / "ray"),
            "SUPERVISOR_OPTIONS": "--num-cpus=3",
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(SUPERVISOR)], env=os.environ | known | settings, stdout=log, stderr=log
            )
        self.running.append(process)
        return process

    def starts(self) -> int:
        return self.calls.read_text().count("start ")

    def wait(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        wait_until(condition, seconds, lambda: f"{self.log.read_text()}\n{self.calls.read_text()}")

    def nodes(self) -> list[int]:
        """Pids of processes that carry the supervisor's mark."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                text = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if f"RAY_WORKER_SUPERVISED={self.folder}" in text.split("\0"):
                found.append(int(entry.name))
        return found

    def close(self) -> None:
        for process in self.running:
            process.terminate()
            process.wait(30.0)


@pytest.fixture
def head() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def supervised(
    head: socket.socket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Supervised]:
    folder = Path(f"/tmp/sup{os.getpid()}")
    folder.mkdir()
    made = Supervised(folder, head.getsockname()[1])
    yield made
    made.close()
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_it_joins_again_after_ray_has_ended_and_cleans_first(supervised: Supervised) -> None:
    supervised.start()
    supervised.wait(lambda: supervised.starts() == 1)
    address = f"--address=127.0.0.1:{supervised.head}"
    first = supervised.calls.read_text()
    assert f"start {address} --block --temp-dir={supervised.folder}/ray" in first
    assert first.rstrip().endswith("--num-cpus=3")
    before = supervised.nodes()
    assert len(before) >= 2  # the node and its child
    supervised.die.touch()
    supervised.wait(lambda: supervised.starts() == 2)
    assert not set(before) & set(supervised.nodes())
    assert "has ended with status 7; joining again in 1 s" in supervised.log.read_text()


@pytest.mark.slow
def test_the_pause_grows(supervised: Supervised) -> None:
    supervised.start(SUPERVISOR_LONGEST="2")
    for count in (1, 2, 3):
        supervised.wait(lambda count=count: supervised.starts() == count)
        supervised.die.touch()
    supervised.wait(lambda: supervised.starts() == 4)
    said = supervised.log.read_text()
    assert [line[-3:] for line in said.splitlines() if "again in" in line] == ["1 s", "2 s", "2 s"]


def test_sigterm_ends_it_and_all_that_it_started(supervised: Supervised) -> None:
    process = supervised.start()
    supervised.wait(lambda: supervised.starts() == 1)
    supervised.wait(lambda: (supervised.folder / "ray" / "session").exists())
    process.terminate()
    assert process.wait(30.0) == 143
    assert "stopped" in supervised.calls.read_text()
    assert not supervised.nodes()
    assert not (supervised.folder / "ray").exists()


def test_it_never_runs_two(supervised: Supervised) -> None:
    supervised.start()
    supervised.wait(lambda: supervised.starts() == 1)
    assert supervised.start().wait(10.0) == 3
    assert "another supervisor runs in" in supervised.log.read_text()
    assert supervised.starts() == 1


def test_the_successor_of_a_killed_supervisor_ends_its_node(supervised: Supervised) -> None:
    killed = supervised.start()
    supervised.wait(lambda: supervised.starts() == 1 and len(supervised.nodes()) >= 2)
    before = supervised.nodes()
    killed.kill()
    killed.wait()
    supervised.start()
    supervised.wait(lambda: supervised.starts() == 2)
    assert not set(before) & set(supervised.nodes())


def test_it_waits_for_a_head_that_does_not_answer(
    supervised: Supervised, head: socket.socket
) -> None:
    head.close()
    supervised.start()
    supervised.wait(lambda: "does not answer; waiting for it" in supervised.log.read_text())
    time.sleep(1.5)
    assert supervised.starts() == 0
    assert supervised.log.read_text().count("waiting for it") == 1
    with socket.create_server(("127.0.0.1", supervised.head)):
        supervised.wait(lambda: supervised.starts() == 1)


@pytest.mark.slow
def test_a_node_that_the_head_has_given_up_is_replaced(
    supervised: Supervised, head: socket.socket
) -> None:
    """After an outage it asks whether the node still belongs to the cluster, and only then."""
    node = supervised.programs / "ray"
    node.write_text(
        node.read_text().replace("setsid sleep", "setsid sh -c 'sleep \"$1\"' --node_id=abc")
    )
    supervised.start()
    supervised.wait(lambda: supervised.starts() == 1)
    time.sleep(4.5)
    assert "asked" not in supervised.calls.read_text()
    head.close()
    time.sleep(5.0)
    supervised.answer.write_text("3")  # the head does not know it, but it has only just started
    with socket.create_server(("127.0.0.1", supervised.head)):
        supervised.wait(lambda: "asked" in supervised.calls.read_text())
        supervised.answer.write_text("1")  # it does
        time.sleep(1.0)
        assert supervised.starts() == 1
        supervised.answer.write_text("0")  # it does not
        supervised.wait(lambda: supervised.starts() == 2)
    assert "the head has given this node up" in supervised.log.read_text()


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("SUPERVISOR_HEAD", "", "SUPERVISOR_HEAD must be host:port, but is ''"),
        ("SUPERVISOR_HEAD", "head", "SUPERVISOR_HEAD must be host:port, but is 'head'"),
        ("SUPERVISOR_PAUSE", "0", "must be whole seconds from 1 on, but one is '0'"),
        ("SUPERVISOR_LONGEST", "1m", "must be whole seconds from 1 on, but one is '1m'"),
        ("SUPERVISOR_RAY", "/no/ray", "there is no program '/no/ray'; set SUPERVISOR_RAY"),
        ("SUPERVISOR_FOLDER", "x", "must be an absolute path of at most 40 characters, but is 'x'"),
        ("SUPERVISOR_FOLDER", "/tmp/" + "x" * 50, "of at most 40 characters"),
    ],
)
def test_a_wrong_setting_is_named(
    name: str, value: str, words: str, supervised: Supervised
) -> None:
    assert supervised.start(**{name: value}).wait(10.0) == 2
    assert words in supervised.log.read_text()


def test_a_folder_that_is_a_link_is_refused(supervised: Supervised) -> None:
    other = supervised.programs / "other"
    other.mkdir()
    supervised.folder.symlink_to(other)
    assert supervised.start().wait(10.0) == 2
    assert "is a link, or another user's" in supervised.log.read_text()


def test_a_signal_during_the_pause_ends_it(supervised: Supervised) -> None:
    process = supervised.start(SUPERVISOR_PAUSE="600", SUPERVISOR_LONGEST="600")
    supervised.wait(lambda: supervised.starts() == 1)
    supervised.die.touch()
    supervised.wait(lambda: "joining again in 600 s" in supervised.log.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(10.0) == 143
