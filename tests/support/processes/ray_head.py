"""A Ray head on this machine, which can be killed as a whole and started again at its address."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.ports import free_ports
from tests.support.processes.commands import environment


class RayHead:
    """`ray start --head` with two CPUs and no token, in a session of its own; a context manager."""

    def __init__(self) -> None:
        self.port = free_ports()
        self.address = f"127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(
            prefix="mft", dir="/tmp", ignore_cleanup_errors=True
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def start(self) -> None:
        """Start it and wait until it is up, again where a busy machine takes longer than Ray's own 30 s."""
        while not self._start():
            self.kill()

    def _start(self) -> bool:
        self._starts += 1
        files = Path(self._folder.name)
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        words += ["--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats"]
        words += [f"--port={self.port}", f"--ray-client-server-port={self.port + 1}"]
        words += ["--include-dashboard=false", f"--temp-dir={files}/{self._starts}"]
        log = files / f"log{self._starts}"
        with log.open("w") as file:
            self._process = subprocess.Popen(
                words,
                env=environment(RAY_AUTH_MODE="disabled"),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        while "runtime started" not in log.read_text():
            if self._process.poll() is not None:
                said = log.read_text()
                assert "timed out during startup" in said, said
                return False
            time.sleep(0.2)
        return True

    def kill(self) -> None:
        """As a power cut: all its processes at once."""
        if self._process is None:
            return
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getsid(int(entry.name)) == self._process.pid:
                    os.kill(int(entry.name), signal.SIGKILL)
        self._process.wait()
        self._process = None

    def __enter__(self) -> "RayHead":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()
