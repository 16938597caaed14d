"""A real MLflow server on 127.0.0.1 that a test can stop, hang, and give an empty database."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from meanflow_tune.tracking.mlflow_store import ensure_database
from tests.support.ports import free_ports

PATIENCE = 120.0


class MlflowServer:
    """One worker, with its own database and artifacts below `folder`, at a port that stays the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_ports(1)
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = folder / "server.db"
        self._empty = folder / "empty.db"
        ensure_database(f"sqlite:///{self._empty}")
        shutil.copy(self._empty, self.database)

    def start(self) -> None:
        """Returns once it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self._folder / "kept")]
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                told = (self._folder / "server.log").read_text()
                assert self._process.poll() is None, told
                assert time.monotonic() < end, told
                time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            self._process.wait(PATIENCE)
            self._process = None

    def hang(self) -> None:
        """Connections are accepted, by the kernel, and never answered."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def empty(self) -> None:
        """Restart with a database in which nothing is."""
        self.stop()
        shutil.copy(self._empty, self.database)
        self.start()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)
