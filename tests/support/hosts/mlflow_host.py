"""An MLflow server on a host of its own, next to those of the cluster."""

import signal
import sys
from pathlib import Path

from meanflow_tune.tracking.mlflow_store import ensure_database
from tests.support.hosts.namespaces import Bed, HostProcess, wait_until

PORT = 5000
START_SECONDS = 180.0


class MlflowHost:
    """uri: for the cluster's hosts; database: for this process."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self.host = bed.add_service()
        self.host.boot()
        self.uri = f"http://{self.host.address}:{PORT}"
        self.database = f"sqlite:///{self.host.folder / 'tmp' / 'server.db'}"
        ensure_database(self.database)
        self._server: HostProcess | None = None

    def start(self) -> None:
        """Returns once it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host=0.0.0.0", f"--port={PORT}"]
        command += ["--workers=1", "--backend-store-uri=sqlite:////tmp/server.db"]
        command += ["--artifacts-destination=/tmp/artifacts", "--allowed-hosts=*"]
        quiet = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        server = self._server = self.host.start(command, "mlflow", Path("/tmp"), **quiet)
        ask = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health', timeout=1)"

        def up() -> bool:
            assert server.poll() is None, server.said()
            return self.host.run([sys.executable, "-c", ask]).returncode == 0

        wait_until(up, START_SECONDS, server.said)

    def stop(self) -> None:
        """As a server dies: nothing listens any more."""
        assert self._server is not None
        self._server.signal(signal.SIGKILL, group=True)
        self._server.wait(30.0)

    def close(self) -> None:
        self._bed.remove(self.host)
