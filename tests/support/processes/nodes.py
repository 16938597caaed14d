"""Ray nodes on this machine, as `ray start` makes them, each in a process group of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.ports import free_ports

START = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]


class Nodes:
    """A head, and the nodes that were added to it. folder: for what they print."""

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_ports()}"
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start_head(self, *options: str, **environment: str) -> None:
        port = self.address.rpartition(":")[2]
        head = ["--head", f"--port={port}", "--include-dashboard=false"]
        head += [
            f"--temp-dir=/tmp/mft-test-{os.getpid()}",
            f"--ray-client-server-port={int(port) + 1}",
        ]
        self._start(*head, *options, **environment)

    def add(self, *options: str) -> None:
        self._start(f"--address={self.address}", *options)

    def _start(self, *options: str, **environment: str) -> None:
        log = self._folder / f"node{len(self._processes)}"
        with log.open("w") as file:
            node = subprocess.Popen(
                [*START, "--object-store-memory=100000000", *options],
                cwd=ROOT,
                env={**os.environ, "RAY_AUTH_MODE": "disabled", **environment},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._processes.append(node)
        while "runtime started" not in log.read_text():
            assert node.poll() is None, log.read_text()
            time.sleep(0.2)

    def kill(self, index: int) -> None:
        """As a power cut does it. index: 0 for the head."""
        os.killpg(self._processes[index].pid, signal.SIGKILL)
        self._processes[index].wait()

    def stop(self) -> None:
        for node in reversed(self._processes):
            node.terminate()
            node.wait()


@contextmanager
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    try:
        yield made
    finally:
        made.stop()
