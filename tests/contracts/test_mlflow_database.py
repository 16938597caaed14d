"""MLflow's tables on a PostgreSQL server, artifacts in the storage folder."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.tracking.events import Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.mlflow_store import connect, default_artifacts, default_uri
from meanflow_tune.tracking.outbox import Outbox
from meanflow_tune.tracking.replay import Replayer
from meanflow_tune.tracking.tracking_uri import NoAnswer, check_uri
from tests.support.paths import ROOT
from tests.support.servers.postgresql import PASSWORD, PostgresServer
from tests.support.stories import STUDY, tell

pytestmark = pytest.mark.slow
PATIENCE = 120.0
CREATE = "import sys; from meanflow_tune.tracking.mlflow_store import connect; connect(sys.argv[1])"


def start(uri: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CREATE, uri], cwd=ROOT)


def tree_of(uri: str) -> dict[str, Any]:
    """The runs of the story with what MLflow knows of each."""
    api = connect(uri)
    experiment = api.get_experiment_by_name(STUDY)
    assert experiment is not None
    runs = api.search_runs([experiment.experiment_id], order_by=["start_time"])
    names = {run.info.run_id: run.info.run_name for run in runs}
    return {
        run.info.run_name: {
            "parent": names.get(run.data.tags.pop("mlflow.parentRunId", "")),
            "status": run.info.status,
            "params": run.data.params,
            "tags": run.data.tags,
            "metrics": {
                name: [(m.step, m.value, m.timestamp) for m in history]
                for name in run.data.metrics
                for history in [api.get_metric_history(run.info.run_id, name)]
            },
            "artifacts": sorted(
                re.sub(r"[0-9a-f-]{36}", "ID", file.path)
                for folder in (None, "images")
                for file in api.list_artifacts(run.info.run_id, folder)
            ),
            "models": [m.step for m in run.outputs.model_outputs] if run.outputs else [],
        }
        for run in runs
    }


def send(outbox: Outbox, storage: Path, uri: str | None) -> None:
    with Replayer(outbox, MlflowSink(storage, uri)) as replayer:
        assert replayer.drain(PATIENCE) == 0
        assert replayer.status().rejected == 0


def test_a_search_is_the_same_tree_as_in_a_file(postgres: PostgresServer, tmp_path: Path) -> None:
    uri = postgres.new_url()
    check_uri(uri)
    outbox = Outbox(tmp_path)
    tell(Tracker(outbox, STUDY), tmp_path / "files")
    for where in (uri, None):
        send(outbox, tmp_path, where)
    found = tree_of(uri)
    assert len(found) == 4
    assert found == tree_of(default_uri(tmp_path))
    experiment = connect(uri).get_experiment_by_name(STUDY)
    assert experiment is not None
    root = default_artifacts(tmp_path) / STUDY
    assert experiment.artifact_location == root.as_uri()
    assert any(root.rglob("*.png"))


def test_events_wait_for_a_server_that_is_down(postgres: PostgresServer, tmp_path: Path) -> None:
    uri = postgres.new_url()
    connect(uri)
    outbox = Outbox(tmp_path)
    tell(Tracker(outbox, STUDY), tmp_path / "files")
    with Replayer(outbox, MlflowSink(tmp_path, uri), longest_delay=0.5) as replayer:
        with postgres.down():
            with pytest.raises(NoAnswer):
                check_uri(uri)
            assert replayer.drain(3.0) > 0
            error = replayer.status().error
            assert error is not None
            assert PASSWORD not in error
        assert replayer.drain(PATIENCE) == 0
        assert replayer.status().rejected == 0
    assert len(tree_of(uri)) == 4


def test_two_drivers_may_create_the_tables_at_once(postgres: PostgresServer) -> None:
    uri = postgres.new_url()
    processes = [start(uri) for _ in range(2)]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0]


def test_a_kill_while_the_tables_are_created_leaves_a_usable_database(
    postgres: PostgresServer,
) -> None:
    uri = postgres.new_url()
    name = uri.rpartition("/")[2]
    process = start(uri)
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'"
    while int(postgres.query(count.format(name))) < 2:  # the lock's, then MLflow's
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert connect(uri).search_experiments(max_results=1)
