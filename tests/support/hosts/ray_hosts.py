"""A Ray cluster on the hosts of a bed: the head on one of them, workers under their supervisor."""

import json
import os
import shlex
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meanflow_tune.files import write_atomic
from tests.support.hosts.namespaces import Bed, Host, HostProcess, wait_until
from tests.support.paths import ROOT, SET_UP_FAULTS

PORT = 6379
SUPERVISOR = ROOT / "deploy" / "ray-worker-supervisor"
START_SECONDS = 400.0  # on a busy machine; eight on an idle one
# The defaults find a host that was cut off after about a minute.
FAST_HEALTH = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class RayHosts:
    """Ray on a bed. cpus: processors that each host offers; token: None for an open cluster.

    fast: with the health settings of docs/on-a-cluster.md instead of Ray's defaults.
    """

    bed: Bed
    cpus: int = 1
    token: str | None = None
    fast: bool = True
    dashboard: bool = True
    variables: dict[str, str] = field(default_factory=dict)
    head: Host | None = None
    daemons: dict[int, HostProcess] = field(default_factory=dict)

    @property
    def address(self) -> str:
        assert self.head is not None
        return f"{self.head.address}:{PORT}"

    def start(self) -> None:
        """A head on the first host and workers on the others."""
        self.start_head(self.bed.hosts[0])
        for host in self.bed.hosts[1:]:
            self.start_worker(host, wait=False)
        self.wait_for(len(self.bed.hosts))

    def environment(self) -> dict[str, str]:
        """Of every Ray process, drivers included."""
        mode = {"RAY_AUTH_MODE": "disabled"}
        if self.token is not None:
            path = self.bed.folder / "shared" / "ray-token"
            path.touch(mode=0o600)
            path.write_text(self.token)
            mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
        self.trace.mkdir(exist_ok=True)
        tests = {
            "HOSTS_TRACE": str(self.trace),
            "HOSTS_PACE": str(self.bed.shared / "pace"),
            "SET_UP_FAULT": str(self.set_up_fault),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(SET_UP_FAULTS)]),
        }
        return {**mode, **tests, "RAY_DISABLE_DOCKER_CPU_WARNING": "1", **self.variables}

    @property
    def set_up_fault(self) -> Path:
        """A file that says what the next rank to make its process group does, see `set_up_faults`."""
        return self.bed.shared / "set-up-fault"

    @property
    def trace(self) -> Path:
        """What ranks note of their steps, see `traces`."""
        return self.bed.shared / "trace"

    def set_pace(self, seconds: float) -> None:
        """How long a training step takes at least, from now on."""
        write_atomic(self.bed.shared / "pace", str(seconds))

    def start_head(self, host: Host) -> None:
        """Returns once it answers."""
        words = ["ray", "start", "--head", "--block", f"--port={PORT}", *self._options(host)]
        words += [f"--include-dashboard={str(self.dashboard).lower()}"]
        health = FAST_HEALTH if self.fast else {}
        daemon = host.start(words, "ray", Path("/tmp"), **self.environment(), **health)
        self.head, self.daemons[host.number] = host, daemon
        before = daemon.said().count("runtime started")

        def up() -> bool:
            assert daemon.poll() is None, daemon.said()
            return daemon.said().count("runtime started") > before

        wait_until(up, START_SECONDS, daemon.said)

    def start_worker(self, host: Host, supervised: bool = True, wait: bool = True) -> None:
        """Join the head. supervised: by deploy/ray-worker-supervisor, which joins again by itself.

        wait: until the head knows it, and before that, until the head has noticed that it was gone.
        """
        if wait:
            gone = f"the head still knows {host.name}"
            wait_until(lambda: host.address not in self.census()["nodes"], START_SECONDS, gone)
        options, settings = self._options(host), self.environment()
        if supervised:
            words = [str(SUPERVISOR)]
            settings |= {
                "SUPERVISOR_HEAD": self.address,
                "SUPERVISOR_OPTIONS": shlex.join(options),
                "SUPERVISOR_LONGEST": "4",
            }
        else:
            words = ["ray", "start", "--block", f"--address={self.address}", *options]
        self.daemons[host.number] = host.start(words, "ray", Path("/tmp"), **settings)
        if wait:
            self.wait_for_host(host)

    def stop(self, host: Host) -> None:
        """End Ray on a host, as `systemctl stop` does."""
        daemon = self.daemons.pop(host.number)
        daemon.signal(signal.SIGTERM)
        daemon.wait(60.0)

    def census(self) -> dict[str, Any]:
        """What the head knows, see `census.py`; asked on its host."""
        assert self.head is not None
        script = Path(__file__).with_name("census.py")
        done = self.head.run(["python", str(script), self.address], **self.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def wait_for(self, count: int, seconds: float = START_SECONDS) -> None:
        """Until exactly so many nodes are alive."""
        wait_until(lambda: len(self.census()["nodes"]) == count, seconds, f"{count} Ray nodes")

    def wait_for_host(self, host: Host, seconds: float = START_SECONDS) -> None:
        """Until the node of a host is alive."""
        what = f"Ray on {host.name}: {self.daemons[host.number].log}"
        wait_until(lambda: host.address in self.census()["nodes"], seconds, what)

    def raylet(self, host: Host) -> int:
        """The outer pid of a host's raylet."""
        return next(
            pid
            for pid, words in host.processes().items()
            if Path(words.split()[0]).name == "raylet"
        )

    def _options(self, host: Host) -> list[str]:
        return [
            f"--node-ip-address={host.address}",
            f"--num-cpus={self.cpus}",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
        ]
