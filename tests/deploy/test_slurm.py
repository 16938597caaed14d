"""deploy/slurm.sh against stubs of Slurm, Ray and the driver: starts, tokens, signals, requeueing."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / "deploy" / "slurm.sh"

# Each stub appends its words to `said`; srun runs what it is given here, as on another node.
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$SAID"
[ "$1" = show ] && printf '%s\\n' node1 node2 node3
exit 0
"""
SRUN = """#!/bin/bash
echo "srun $*" >> "$SAID"
while [[ "$1" == --* ]]; do shift; done
[ "$1" = hostname ] && { echo "127.0.0.1 10.0.0.1"; exit 0; }
exec "$@"
"""
RAY = """#!{python}
import os, signal, socket, sys
words = " ".join(sys.argv[1:])
mode = oct(os.stat(os.environ["RAY_AUTH_TOKEN_PATH"]).st_mode & 0o777)
with open(os.environ["SAID"], "a") as said:
    print(f"ray {{words}} [{{os.environ['RAY_AUTH_MODE']}} {{mode}}]", file=said)
if "--head" in words:
    if os.environ.get("HEAD_FAILS"):
        sys.exit(1)
    port = int(words.split("--port=")[1].split()[0])
    listener = socket.create_server(("127.0.0.1", port))
signal.pause()
"""
DRIVER = """#!/bin/bash
[ "$1" = -c ] && exec {python} "$@"
echo "tune ${{*:2}}" >> "$SAID"
trap 'echo "tune stops" >> "$SAID"; exit 130' TERM
until grep -q "^ray.*--address" "$SAID"; do sleep .05; done
[ "$DRIVER_ENDS" != "" ] && exit "$DRIVER_ENDS"
while :; do sleep .1; done
"""


@dataclass
class Batch:
    """A submitted job. lines: what the stubs were called with, in order."""

    place: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def start(self, *options: str, **environment: str) -> "Batch":
        self.process = subprocess.Popen(
            ["bash", str(SCRIPT), *options],
            env=self.environment | environment,
            cwd=self.place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def end(self) -> tuple[int, str]:
        assert self.process is not None
        _, errors = self.process.communicate(timeout=120)
        return self.process.returncode, errors

    def lines(self, program: str) -> list[str]:
        said = self.place / "said"
        text = said.read_text().splitlines() if said.exists() else []
        return [line for line in text if line.startswith(f"{program} ")]

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not condition():
            assert self.process is not None
            assert time.monotonic() < end
            assert self.process.poll() is None, self.end()
            time.sleep(0.05)


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    program(tmp_path / "bin/scontrol", SCONTROL)
    program(tmp_path / "bin/srun", SRUN)
    program(tmp_path / "home/.venv/bin/ray", RAY.format(python=sys.executable))
    program(tmp_path / "home/.venv/bin/python", DRIVER.format(python=sys.executable))
    port = os.getpid() % 20000
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "HOME": str(tmp_path / "user"),
        "SAID": str(tmp_path / "said"),
        "SLURM_JOB_ID": str(20000 + port),
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_SUBMIT_DIR": str(tmp_path / "home"),
        "SLURM_CPUS_PER_TASK": "7",
        "RAY_ADDRESS": "another:6379",
    }
    return Batch(tmp_path, environment)


def test_the_head_the_workers_and_the_driver_start_in_order_with_a_private_token(
    batch: Batch,
) -> None:
    status, errors = batch.start("--storage", "/shared/my runs", DRIVER_ENDS="0").end()
    assert status == 0, errors
    head, *workers = batch.lines("ray")
    assert "start --head --block" in head
    assert "--num-cpus=7" in head
    assert "--node-ip-address=127.0.0.1" in head
    assert all("--address=127.0.0.1:" in worker for worker in workers)
    assert all(line.endswith("[token 0o600]") for line in [head, *workers])
    (tune,) = batch.lines("tune")
    assert "--require-token --wait-for-cluster 2m --storage /shared/my runs" in tune
    asked, started_head, started_workers = batch.lines("srun")
    assert "--nodelist=node1" in asked
    assert "--nodelist=node1" in started_head
    assert "--nodelist=node2,node3" in started_workers
    assert "--ntasks=2" in started_workers
    private = batch.place / "user/.meanflow-tune"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert list(private.iterdir()) == []  # the token went with the cluster
    assert batch.lines("scontrol") == ["scontrol show hostnames node[1-3]"]


def test_before_the_time_limit_the_search_stops_and_the_job_is_queued_again(batch: Batch) -> None:
    process = batch.start().process
    assert process is not None
    batch.until(lambda: bool(batch.lines("tune")))
    process.send_signal(signal.SIGUSR1)
    status, errors = batch.end()
    assert status == 130
    assert "resumed by job" in errors
    assert "tune stops" in batch.lines("tune")
    assert batch.lines("scontrol")[-1] == f"scontrol requeue {batch.environment['SLURM_JOB_ID']}"


def test_scancel_stops_the_search_for_good(batch: Batch) -> None:
    process = batch.start().process
    assert process is not None
    batch.until(lambda: bool(batch.lines("tune")))
    process.send_signal(signal.SIGTERM)
    status, _ = batch.end()
    assert status == 130
    assert "tune stops" in batch.lines("tune")
    assert not any("requeue" in line for line in batch.lines("scontrol"))


@pytest.mark.parametrize(
    ("ends", "restarts", "again"),
    [("5", "0", True), ("5", "10", False), ("2", "0", False), ("3", "0", False)],
)
def test_only_a_lost_cluster_is_started_again_and_not_for_ever(
    batch: Batch, ends: str, restarts: str, again: bool
) -> None:
    status, errors = batch.start(DRIVER_ENDS=ends, SLURM_RESTART_COUNT=restarts).end()
    assert status == int(ends), errors
    assert any("requeue" in line for line in batch.lines("scontrol")) == again


def test_a_head_that_does_not_start_is_named(batch: Batch) -> None:
    status, errors = batch.start(HEAD_FAILS="1").end()
    assert status == 5
    assert "Ray's head does not answer at 127.0.0.1:" in errors
    assert batch.lines("tune") == []


def test_a_missing_environment_is_named(batch: Batch) -> None:
    status, errors = batch.start(SLURM_SUBMIT_DIR="/nowhere").end()
    assert status == 2
    assert "/nowhere/.venv/bin/ray is missing; run 'make setup'" in errors


def test_nothing_of_it_is_left(batch: Batch) -> None:
    process = batch.start(DRIVER_ENDS="0").process
    assert process is not None
    batch.end()
    with pytest.raises(ProcessLookupError):  # its session is empty
        os.killpg(process.pid, 0)
