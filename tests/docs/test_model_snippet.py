"""The README's snippet that loads a model, as printed, from another folder; and the same model served."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from meanflow_tune.files import mlflow_uri
from meanflow_tune.tracking.events import Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.outbox import Outbox
from tests.support.paths import ROOT
from tests.support.ports import free_ports
from tests.support.stories import SHAPE, STUDY, make_record, make_report, make_student

pytestmark = pytest.mark.slow
PATIENCE = 120.0


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a registered student of ten classes, as the search leaves it."""
    storage = tmp_path_factory.mktemp("runs")
    outbox, sink = Outbox(storage / STUDY), MlflowSink(storage)
    tracker = Tracker(outbox, STUDY)
    model = make_student(storage / "model", classes=10)
    tracker.catch_up([make_record(0, "completed", (make_report(64, 0.5),))], lambda _: model)
    version = {"trial": "0", "aliases": ["candidate"], "config": "c", "description": "the winner"}
    tracker.registered(
        {
            "name": "toy-0a1b2c3d-teacher_gap_1",
            "description": "Students",
            "winner": "0",
            "winner_aliases": ["candidate"],
            "versions": [version],
            "contests": [],
            "seeds_for_level": 6,
            "unconfirmed": "nothing was retrained.",
        }
    )
    offset = 0
    for seq in range(outbox.written):
        event = outbox.read(offset, seq)
        assert event is not None
        sink.apply(event)
        offset = event.end
    return storage


def environment(storage: Path) -> dict[str, str]:
    """Without this checkout on the path: the model brings its code along."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"  # as when activated
    return kept | {
        "MLFLOW_TRACKING_URI": mlflow_uri(storage),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }


def test_the_readmes_snippet_loads_a_model_from_another_folder(
    storage: Path, tmp_path: Path
) -> None:
    blocks = (ROOT / "README.md").read_text().split("```python\n")[1:]
    (snippet,) = [text for block in blocks if "mlflow.pyfunc" in (text := block.split("```")[0])]
    told = snippet + "\nprint(images.shape, images.dtype)\n"
    command = [sys.executable, "-c", told]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(storage), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == f"{(2, *SHAPE)} float32"


def test_a_served_model_answers_a_request(storage: Path, tmp_path: Path) -> None:
    port = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", "models:/toy-0a1b2c3d-teacher_gap_1@candidate", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(storage),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.2)
        body = {"dataframe_records": [{"seed": 1, "label": 3}], "params": {"nfe": 2}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            (image,) = json.load(answer)["predictions"]
        assert len(image) == SHAPE[0]
        assert len(image[0]) == SHAPE[1]
        assert all(abs(value) < 100 for row in image[0] for value in row)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, 15)
        server.wait(30)
