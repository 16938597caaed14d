"""Hosts on one machine: each with its own network address, processes, name, /tmp and /dev/shm.

A host is a set of namespaces that lives as long as its first process. A bridge in a further network
namespace joins them, so that no interface or port exists outside, and several beds never collide. Each
first process reads from a pipe of the process that made the bed and ends with it, even after `kill -9`;
what remains, a folder, is removed by the next bed.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.support.needs import needs, needs_root, unavailable
from tests.support.paths import ROOT
from tests.support.processes.commands import environment

PREFIX = "mft-hosts-"
NETWORK = "10.77.0"
GATEWAY = f"{NETWORK}.1"
MOST = 16  # hosts of a bed
START_SECONDS = 30.0

# The first process of a host: prepares its mounts, then waits for the end of its input, and reaps.
_INIT = """
set -e
mount --make-rprivate /
folder=$1 name=$2
shift 2
mount --bind "$folder/hosts" /etc/hosts
mount --bind "$folder/resolv.conf" /etc/resolv.conf
for path in "$@"; do mount --bind "/tmp/$path" "$folder/tmp/$path"; done
mount --rbind "$folder/tmp" /tmp
mount -t tmpfs -o size=2g,mode=1777 shm /dev/shm
hostname "$name"
echo ready
while read -r _; do :; done
"""
_SWITCH = """
set -e
ip link add br0 type bridge
ip addr add "$1/24" dev br0
ip link set br0 up
ip link set lo up
echo ready
while read -r _; do :; done
"""


def wait_until(
    condition: Callable[[], bool], seconds: float, what: str | Callable[[], str]
) -> None:
    """Raises TimeoutError with `what` where the condition does not hold in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what() if callable(what) else what}")
        time.sleep(0.1)


@dataclass
class HostProcess:
    """A command that runs on a host. pid: as seen from outside; it leads a session of its own."""

    pid: int
    log: Path
    _entry: "subprocess.Popen[bytes]"

    def poll(self) -> int | None:
        return self._entry.poll()

    def wait(self, seconds: float) -> int:
        """The exit status, negative after a signal. Raises TimeoutError with what it said."""
        try:
            return self._entry.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"did not end in {seconds:.0f} s: {self.said()[-3000:]}") from None

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: int, group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)


@dataclass(eq=False)
class Host:
    """One machine. number: from 0; address: its own; folder: holds its /tmp and its logs."""

    bed: "Bed"
    number: int
    name: str
    address: str
    folder: Path
    _init: "subprocess.Popen[bytes] | None" = None
    _pid: int = 0

    def boot(self) -> None:
        """Switch on, with an empty /tmp and /dev/shm as after a reboot."""
        assert self._init is None, f"{self.name} is on"
        shared = _empty_tmp(self.folder / "tmp", self.bed.visible)
        (self.folder / "hosts").write_text(self.bed.names_for(self))
        (self.folder / "resolv.conf").touch()
        command = [
            "unshare",
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "--uts",
            "--ipc",
            "--mount",
        ]
        command += ["bash", "-c", _INIT, "mft-host", str(self.folder), self.name, *shared]
        self._init = _start_first(command, self.folder / "boot.log")
        self._pid = _child(self._init.pid)
        link = f"v{self.number}"
        with contextlib.suppress(subprocess.CalledProcessError):  # after a power cut it may linger
            self.bed.switch("ip", "link", "del", link)
        self.bed.switch(
            *("ip", "link", "add", link, "type", "veth"),
            *("peer", "name", "eth0", "netns", str(self._pid)),
        )
        self.bed.switch("ip", "link", "set", link, "master", "br0", "up")
        enter = ["nsenter", "-t", str(self._pid), "-n", "ip"]
        for words in (
            f"addr add {self.address}/24 dev eth0",
            "link set lo up",
            "link set eth0 up",
            f"route add default via {GATEWAY}",
        ):
            _run([*enter, *words.split()])

    @property
    def is_on(self) -> bool:
        return self._init is not None

    def power_off(self) -> None:
        """Switch off at once. As with a pulled plug, no connection is closed."""
        self.cut()
        self.kill()

    def kill(self) -> None:
        """`kill -9` of the first process, thus of all; the kernel still closes their connections."""
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._init.wait(START_SECONDS)
            wait_until(
                lambda: not self.processes(), START_SECONDS, f"{self.name} still has processes"
            )
            if self._init.stdin is not None:
                self._init.stdin.close()
            self._init = None

    def cut(self) -> None:
        """Pull the network cable."""
        self.bed.switch("ip", "link", "set", f"v{self.number}", "down")

    def heal(self) -> None:
        """Plug the network cable in again."""
        self.bed.switch("ip", "link", "set", f"v{self.number}", "up")

    def start(
        self, arguments: Sequence[str], log: str = "", folder: Path | None = None, **variables: str
    ) -> HostProcess:
        """Run a command in the background; its output goes to a file named after `log`.

        folder: the current one, by default the one that all hosts share.
        """
        assert self._init is not None, f"{self.name} is off"
        path = self.bed.logs / f"{self.name}-{log or Path(arguments[0]).name}.log"
        with path.open("ab") as file:
            entry = subprocess.Popen(
                [*self._enter(folder), "setsid", *arguments],
                env=self.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        wait_until(
            lambda: entry.poll() is not None or bool(_children(entry.pid)),
            START_SECONDS,
            arguments[0],
        )
        children = _children(entry.pid)
        return HostProcess(children[0] if children else entry.pid, path, entry)

    def run(
        self, arguments: Sequence[str], timeout: float = 120.0, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        assert self._init is not None, f"{self.name} is off"
        return subprocess.run(
            [*self._enter(None), *arguments],
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def environment(self, **variables: str) -> dict[str, str]:
        """Of a command: this process's without settings of Ray, MLflow and Optuna, and a HOME of its own."""
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"HOME": "/tmp", "PATH": programs, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        return environment(**(own | self.bed.variables | variables))

    def processes(self) -> dict[int, str]:
        """Outer pid -> command line of every process but the first, and of no zombie."""
        space = _namespace(self._pid)
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self._pid:
                with contextlib.suppress(OSError):
                    if space and os.readlink(entry / "ns" / "pid") == space:
                        words = (entry / "cmdline").read_bytes().decode(errors="replace")
                        if words := words.replace("\0", " ").strip():
                            found[int(entry.name)] = words
        return found

    def end(self, pid: int) -> None:
        """`kill -9` of one process, by its outer pid; returns when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in self.processes(), START_SECONDS, f"process {pid} stays")

    def inner(self, pid: int) -> int:
        """The pid that a process of this host has inside of it."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("NSpid:")).split()[-1])

    def outer(self, inner: int) -> int | None:
        """The pid outside of a process that this host knows as `inner`; None if there is none."""
        for pid in self.processes():
            with contextlib.suppress(OSError, StopIteration):
                if self.inner(pid) == inner:
                    return pid
        return None

    @property
    def temp(self) -> Path:
        """This host's /tmp, as seen from outside."""
        return Path(f"/proc/{self._pid}/root/tmp")

    @property
    def shared_memory(self) -> Path:
        """This host's /dev/shm, as seen from outside."""
        return Path(f"/proc/{self._pid}/root/dev/shm")

    def _enter(self, folder: Path | None) -> list[str]:
        spaces = ["-n", "-p", "-m", "-u", "-i"]
        return ["nsenter", "-t", str(self._pid), *spaces, f"--wd={folder or self.bed.shared}"]


@dataclass
class Bed:
    """Hosts that share one folder at one path. variables: the environment of every command on them.

    visible: what lies below /tmp outside and every host sees at the same path.
    loopback_names: a host's own name means 127.0.1.1 to it, as on Debian and Ubuntu.
    """

    folder: Path
    loopback_names: bool = True
    variables: dict[str, str] = field(default_factory=dict)
    hosts: list[Host] = field(default_factory=list)
    services: list[Host] = field(default_factory=list)
    _switch: "subprocess.Popen[bytes] | None" = None

    @property
    def shared(self) -> Path:
        return self.folder / "shared"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def visible(self) -> list[Path]:
        return [ROOT, Path(sys.prefix), Path(sys.base_prefix), self.shared]

    def add(self) -> Host:
        """A further host, which is off."""
        self.hosts.append(self._host(len(self.hosts)))
        return self.hosts[-1]

    def add_service(self) -> Host:
        """A host that is no part of the cluster, and is off."""
        self.services.append(self._host(MOST - 1 - len(self.services)))
        return self.services[-1]

    def remove(self, host: Host) -> None:
        """Switch a host off for good."""
        host.kill()
        for hosts in (self.hosts, self.services):
            if host in hosts:
                hosts.remove(host)

    def _host(self, number: int) -> Host:
        folder = self.folder / f"host{number}"
        folder.mkdir(exist_ok=True)
        return Host(self, number, f"host{number}", f"{NETWORK}.{10 + number}", folder)

    def names_for(self, host: Host) -> str:
        """/etc/hosts of a host."""
        lines = ["127.0.0.1 localhost"]
        if self.loopback_names:
            lines.append(f"127.0.1.1 {host.name}")
        for number in range(MOST):  # also those that come later
            name, address = f"host{number}", f"{NETWORK}.{10 + number}"
            if name != host.name or not self.loopback_names:
                lines.append(f"{address} {name}")
        return "\n".join(lines) + "\n"

    def switch(self, *words: str) -> None:
        """Run a command in the network namespace of the bridge."""
        assert self._switch is not None
        _run(["nsenter", "-t", str(self._switch.pid), "-n", *words])

    def open(self) -> None:
        command = ["unshare", "--net", "bash", "-c", _SWITCH, "mft-switch", GATEWAY]
        self._switch = _start_first([*command, str(self.folder)], self.folder / "switch.log")

    def close(self) -> None:
        for host in [*self.hosts, *self.services]:
            host.kill()
        if self._switch is not None:
            self._switch.kill()
            self._switch.wait()


@contextmanager
def open_bed(count: int = 3, loopback_names: bool = True, **variables: str) -> Iterator[Bed]:
    """A bed with `count` booted hosts. variables: the environment of every command on them."""
    needs_root("to make hosts of namespaces")
    for program in ("unshare", "nsenter", "setsid", "mount", "ip"):
        needs(program, "to make hosts of namespaces")
    base = Path(tempfile.gettempdir())
    sweep(base)
    with _own_folder(base) as folder:
        bed = Bed(folder, loopback_names, variables)
        for path in (bed.shared, bed.logs):
            path.mkdir()
        try:
            try:
                bed.open()
            except OSError as error:  # a container without the capability
                unavailable(f"cannot make hosts of namespaces: {error}")
            for _ in range(count):
                bed.add().boot()
            yield bed
        finally:
            bed.close()


def sweep(base: Path) -> list[Path]:
    """Remove what beds of dead processes left behind; their folders."""
    found = []
    for folder in base.glob(f"{PREFIX}*"):
        try:
            lock = (folder / "lock").open("ab")
        except OSError:
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            for pid in _first_processes(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)
            found.append(folder)
    return found


@contextmanager
def _own_folder(base: Path) -> Iterator[Path]:
    """A folder whose lock is held by this process."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        with (folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "lock").exists():  # another process took it for a dead one's
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


def _first_processes(folder: Path) -> Iterator[int]:
    """The pids of hosts and switches of a bed."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if {"mft-host", "mft-switch"} & set(words) and any(
                    Path(word) == folder or folder in Path(word).parents for word in words
                ):
                    yield int(entry.name)


def _empty_tmp(temp: Path, visible: Sequence[Path]) -> list[str]:
    """An empty /tmp with places for those of `visible` that lie below the outer one: their names there."""
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir()
    temp.chmod(0o1777)
    names = [str(path.relative_to("/tmp")) for path in visible if Path("/tmp") in path.parents]
    for name in names:
        (temp / name).mkdir(parents=True, exist_ok=True)
    return names


def _start_first(command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start the first process of a namespace; returns when it is ready."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        )
    output: IO[bytes] | Any = process.stdout
    with output:
        if output.readline() != b"ready\n":
            process.kill()
            process.wait()
            raise OSError(log.read_text().strip() or "no message")
    return process


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _child(pid: int) -> int:
    wait_until(lambda: bool(_children(pid)), START_SECONDS, f"process {pid} has no child")
    return _children(pid)[0]


def _namespace(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
    return ""
