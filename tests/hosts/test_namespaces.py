"""The test bed itself: hosts that share a folder and nothing else, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.hosts.namespaces import PREFIX, open_bed, sweep, wait_until
from tests.support.paths import ROOT

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(120)]

LISTEN = (
    "import socket, time; s = socket.create_server(('0.0.0.0', 7000)); print('on'); time.sleep(99)"
)
CONNECT = "import socket; socket.create_connection(('10.77.0.10', 7000), timeout=2)"


def test_hosts_share_one_folder_and_nothing_else() -> None:
    with open_bed(2) as bed:
        first, second = bed.hosts
        first.run(["sh", "-c", "echo 1 > /tmp/own; echo 1 > /dev/shm/own; echo 1 > common"])
        seen = second.run(["sh", "-c", "ls /dev/shm; ls /tmp/own; cat common; hostname"])
        assert seen.stdout.split() == ["1", "host1"]
        sleeper = first.start(["sleep", "60"])
        assert list(first.processes()) == [sleeper.pid]
        assert first.outer(first.inner(sleeper.pid)) == sleeper.pid
        assert not second.processes()
        assert second.run(["kill", "-0", str(first.inner(sleeper.pid))]).returncode != 0
        assert [path.name for path in first.shared_memory.iterdir()] == ["own"]


@pytest.mark.parametrize("loopback", [True, False])
def test_a_host_knows_itself_as_debian_does(loopback: bool) -> None:
    with open_bed(2, loopback_names=loopback) as bed:
        ask = ["python", "-c", "import socket; print(socket.gethostbyname(socket.gethostname()))"]
        own = "127.0.1.1" if loopback else bed.hosts[1].address
        assert bed.hosts[1].run(ask).stdout.strip() == own
        other = ["python", "-c", "import socket; print(socket.gethostbyname('host0'))"]
        assert bed.hosts[1].run(other).stdout.strip() == bed.hosts[0].address


def test_a_link_is_cut_and_healed() -> None:
    with open_bed(2) as bed:
        first, second = bed.hosts
        server = first.start(["python", "-c", LISTEN])
        wait_until(lambda: "on" in server.said(), 20.0, "a server")
        connect = ["python", "-c", CONNECT]
        assert second.run(connect).returncode == 0
        second.cut()
        assert second.run(connect).returncode != 0
        assert server.poll() is None
        second.heal()
        wait_until(lambda: second.run(connect).returncode == 0, 20.0, "a connection")


def test_a_power_cut_ends_everything_at_once_and_a_boot_forgets_it() -> None:
    with open_bed(1) as bed:
        (host,) = bed.hosts
        host.run(["touch", "/tmp/own", "/dev/shm/own", "kept"])
        sleeper = host.start(["sleep", "60"])
        host.power_off()
        assert sleeper.wait(5.0) == -signal.SIGKILL
        assert not host.is_on
        host.boot()
        assert host.run(["ls", "/tmp/own", "/dev/shm/own"]).returncode != 0
        assert host.run(["ls", "kept"]).returncode == 0


def test_two_beds_at_once_do_not_meet() -> None:
    with open_bed(1) as one, open_bed(1) as other:
        assert one.hosts[0].address == other.hosts[0].address
        server = one.hosts[0].start(["python", "-c", LISTEN])
        wait_until(lambda: "on" in server.said(), 20.0, "a server")
        assert one.hosts[0].run(["python", "-c", CONNECT]).returncode == 0
        assert other.hosts[0].run(["python", "-c", CONNECT]).returncode != 0


def test_a_killed_test_process_takes_its_hosts_with_it(tmp_path: Path) -> None:
    """And the next bed removes its folder, but none of a process that lives."""
    code = """
import time
from tests.support.hosts.namespaces import open_bed
with open_bed(2) as bed:
    bed.hosts[0].start(["sleep", "600"])
    print(bed.folder, *(pid for host in bed.hosts for pid in host.processes()), flush=True)
    time.sleep(600)
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    assert owner.stdout is not None
    folder, pid = owner.stdout.readline().split()
    assert folder.startswith(f"{tmp_path}/{PREFIX}")
    assert sweep(tmp_path) == []
    owner.kill()
    owner.wait()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10.0, "the hosts live on")
    assert sweep(tmp_path) == [Path(folder)]
    assert not Path(folder).exists()


def test_zombies_are_reaped() -> None:
    with open_bed(1) as bed:
        orphan = "(sleep 0.2; exit) & exit"
        bed.hosts[0].run(["bash", "-c", orphan])
        time.sleep(0.5)
        states = bed.hosts[0].run(["sh", "-c", "cat /proc/[0-9]*/stat"]).stdout
        assert " Z " not in states
