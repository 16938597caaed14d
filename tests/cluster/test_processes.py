"""Drivers that are interrupted, killed, or guests of a cluster; each is a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.ports import free_ports
from tests.support.processes.listening import listening

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(800)]


# Prints the number of reservations that are held and the free CPUs of a cluster.
LEFT = """
import sys, os
sys.path.insert(0, os.getcwd())
from meanflow_tune.cluster.connection import session
from meanflow_tune.cluster.slots.watch import free_resources
with session.join("{address}"):
    from ray.util import placement_group_table
    states = [group["state"] for group in placement_group_table().values()]
    print(len(states) - states.count("REMOVED"), free_resources()["CPU"])
"""

# Two agents of Ray do nothing any more, but may outlive a killed driver for a minute.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
used: set[Path] = set()  # folders of drivers


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Of any driver, not even an agent of Ray, seen at the end so that nothing waits for them."""
    yield
    wait_for(lambda: not any(marked(folder) for folder in used))


@contextmanager
def driver(
    folder: Path, *arguments: str, rungs: int = 1000, seconds: float = 0.5, deaf: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A driver in a process group of its own, as a shell would start it, with all its output.

    Waits until nothing that works for it is left.
    """
    used.add(folder)
    config = {"x": 0.0, "rungs": rungs, "seconds": seconds, "deaf": deaf}
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "terminal").open("w") as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.processes.driver", str(folder), *arguments],
            cwd=ROOT,
            stdout=terminal,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Marks every process that descends from it.
            env={**os.environ, "TMPDIR": "/tmp", "MARK": str(folder), "RAY_AUTH_MODE": "disabled"},
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            wait_for(lambda: all(line.startswith(AGENTS) for line in marked(folder)))


def terminal(folder: Path) -> list[str]:
    return (folder / "terminal").read_text().splitlines()


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds; pytest's own time limit ends it otherwise."""
    while not condition():
        time.sleep(0.2)


def pids(folder: Path) -> list[int]:
    return list(descendants(folder))


def marked(folder: Path) -> list[str]:
    return list(descendants(folder).values())


def descendants(folder: Path) -> dict[int, str]:
    """Command lines of the processes that descend from a driver of this folder, by pid."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            mine = f"MARK={folder}\0".encode() in (process / "environ").read_bytes()
            alive = (process / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
            if process.name.isdigit() and mine and alive:
                line = (process / "cmdline").read_text().replace("\0", " ")
                found[int(process.name)] = line
        except OSError:
            continue
    return found


def test_ctrl_c_ends_jobs_at_a_safe_point(tmp_path: Path) -> None:
    with driver(tmp_path) as process:
        wait_for(lambda: {"report 0 100", "report 1 100"} <= set(terminal(tmp_path)))
        # As a terminal does it: to the whole process group.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 130, terminal(tmp_path)
        lines = terminal(tmp_path)
        assert sorted(line for line in lines if line.startswith("end")) == [
            "end 0 running",
            "end 1 running",
        ]
        assert [line for line in lines if not line.startswith(("report", "end"))] == []


def test_sigterm_to_everything_is_like_ctrl_c_and_nothing_listens_on_a_network(
    tmp_path: Path,
) -> None:
    """`timeout` sends it to the driver and to its group, `scancel` and `systemctl stop` to every process:
    the driver needs the others until its trials are at a safe point."""
    with driver(tmp_path) as process:
        wait_for(lambda: {"report 0 100", "report 1 100"} <= set(terminal(tmp_path)))
        listeners = {pid: listening(pid) for pid in pids(tmp_path)}
        assert any(listeners.values())
        open_to_others = [
            (descendants(tmp_path).get(pid), str(host), port)
            for pid, found in listeners.items()
            for host, port in found
            if not host.is_loopback
        ]
        assert open_to_others == []
        process.send_signal(signal.SIGTERM)
        os.killpg(process.pid, signal.SIGTERM)
        for pid in pids(tmp_path):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        assert process.wait() == 130, terminal(tmp_path)
        ends = sorted(line for line in terminal(tmp_path) if line.startswith("end"))
        assert ends == ["end 0 running", "end 1 running"]
        assert "at once" not in terminal(tmp_path)


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    """With slots at work, and their threads inside Ray: disconnecting under them ends a process at
    once with status 1, without its last words."""
    with driver(tmp_path, deaf=True) as process:
        wait_for(lambda: {"report 0 100", "report 1 100"} <= set(terminal(tmp_path)))
        os.killpg(process.pid, signal.SIGINT)
        seen = len(terminal(tmp_path))
        # It continues, since its jobs do not listen.
        wait_for(lambda: len(terminal(tmp_path)) > seen + 4)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 131, terminal(tmp_path)
        lines = terminal(tmp_path)
        assert lines[-1] == "at once"
        assert {line.split()[0] for line in lines[:-1]} == {"report"}


def test_a_second_ctrl_c_while_slots_start(tmp_path: Path) -> None:
    with driver(tmp_path) as process:
        wait_for(lambda: any("RayTrainWorker" in line for line in marked(tmp_path)))
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 131, terminal(tmp_path)
        assert terminal(tmp_path)[-1] == "at once"


def test_nothing_outlives_a_killed_driver(tmp_path: Path) -> None:
    with driver(tmp_path) as process:
        wait_for(lambda: "report 0 100" in terminal(tmp_path))
        assert len(marked(tmp_path)) > 5
        process.kill()
    with driver(tmp_path) as process:
        wait_for(lambda: any(line.startswith("report 0") for line in terminal(tmp_path)))
        assert "report 0 100" not in terminal(tmp_path)


def test_two_hosts_are_joined_and_left_as_they_were(tmp_path: Path) -> None:
    port = free_ports()
    address = f"127.0.0.1:{port}"
    common = ["--block", "--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
    head = ["--head", f"--port={port}", "--include-dashboard=false"]
    head.append(f"--ray-client-server-port={port + 1}")
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start"]
    temp = Path(f"/tmp/mft-test-{os.getpid()}")
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "MARK": str(tmp_path / "nodes")}
    nodes = []
    try:
        for arguments in ([*head, f"--temp-dir={temp}"], [f"--address={address}"]):
            log = (tmp_path / f"node{len(nodes)}").open("w")
            nodes.append(
                subprocess.Popen(
                    [*ray, *arguments, *common],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
            while "runtime started" not in Path(log.name).read_text():
                assert nodes[-1].poll() is None, Path(log.name).read_text()
                time.sleep(0.2)
        with driver(tmp_path, address, rungs=2, seconds=0.0) as process:
            assert process.wait() == 0
            assert sorted(terminal(tmp_path)) == [
                *[f"end {n} completed" for n in range(3)],
                "hosts 2",
                *[f"report {n} {images}" for n in range(3) for images in (100, 200)],
            ]
        left = tmp_path / "left"
        left.write_text(LEFT.format(address=address))
        with driver(tmp_path, address) as process:
            wait_for(lambda: any(line.startswith("report 0") for line in terminal(tmp_path)))
            process.kill()
        while subprocess.check_output([sys.executable, left], cwd=ROOT, text=True) != "0 2.0\n":
            assert all(node.poll() is None for node in nodes)
    finally:
        for node in reversed(nodes):
            node.terminate()
            node.wait()
