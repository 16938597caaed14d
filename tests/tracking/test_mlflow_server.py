"""Replay to a real MLflow server that is down, comes up, dies and comes back."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meanflow_tune.tracking.events import Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.outbox import Outbox
from meanflow_tune.tracking.replay import Replayer
from tests.support.stories import STUDY, make_record, make_report, tell

pytestmark = pytest.mark.slow
PATIENCE = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "kept")]
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, 15)
        process.wait(PATIENCE)


class Stranger(http.server.BaseHTTPRequestHandler):
    """Answers every request with a page, as a proxy without its server does."""

    def answer(self) -> None:
        self.send_error(400 if "experiments" in self.path else 404)

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_stranger_at_the_address_is_no_reason_to_give_an_event_up(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    Tracker(outbox, STUDY).search_started({"goal": "none"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{stranger.server_port}"
        with Replayer(outbox, MlflowSink(tmp_path, uri)) as replayer:
            while replayer.status().error is None and replayer.status().pending:
                time.sleep(0.05)
            assert (replayer.status().pending, replayer.status().rejected) == (1, 0)
        stranger.shutdown()


def test_a_server_that_comes_late_and_dies_in_between_gets_everything_once(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    outbox = Outbox(tmp_path)
    tracker = Tracker(outbox, STUDY)
    tell(tracker, tmp_path / "files")
    with Replayer(outbox, MlflowSink(tmp_path, uri), longest_delay=1.0) as replayer:
        while replayer.status().error is None:
            time.sleep(0.05)
        assert replayer.status().replayed == 0
        assert str(port) in str(replayer.status().error)

        with server(tmp_path, port):
            assert replayer.drain(PATIENCE) == 0
        record = make_record(1, "pruned", (make_report(32, 0.4), make_report(64, 0.3)))
        tracker.reported(record, record.reports[-1])
        while replayer.status().error is None:
            time.sleep(0.05)
        with server(tmp_path, port):
            assert replayer.drain(PATIENCE) == 0
            assert replayer.status().rejected == 0
            api = MlflowClient(uri)
            experiment = api.get_experiment_by_name(STUDY).experiment_id
            runs = {run.info.run_name: run for run in api.search_runs([experiment])}
            assert len(api.search_runs([experiment])) == len(runs) == 4
            late = runs["trial 00001"].info.run_id
            history = api.get_metric_history(late, "teacher_gap/nfe_1")
            assert [(metric.step, metric.value) for metric in history] == [(32, 0.4), (64, 0.3)]
            pictures = api.list_artifacts(runs["trial 00000 backward"].info.run_id, "images")
            assert len(pictures) == 4
            model, *more = api.search_logged_models([experiment])
            assert not more
            names = {file.path for file in api.list_logged_model_artifacts(model.model_id)}
            assert {"MLmodel", "data", "code"} <= names
