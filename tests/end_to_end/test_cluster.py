"""A search on a running Ray cluster of two nodes, killed, and resumed on a cluster started afresh."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.ports import free_ports
from tests.support.processes.commands import (
    TRIALS,
    assert_agreement,
    command,
    environment,
    run,
    study,
    wait_for,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


@contextmanager
def two_nodes() -> Iterator[str]:
    """`ray start --head` and a second node process, one CPU each; ended by their own pids."""
    port = free_ports()
    address = f"127.0.0.1:{port}"
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
    ray += ["--object-store-memory=100000000", "--disable-usage-stats"]
    nodes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="mft", dir="/tmp", ignore_cleanup_errors=True) as temp:
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={temp}/ray"]
        head += [f"--ray-client-server-port={port + 1}"]
        try:
            for number, options in enumerate((head, [f"--address={address}"])):
                log = Path(temp) / f"node{number}.log"
                with log.open("w") as file:
                    node = subprocess.Popen(
                        [*ray, *options],
                        env=environment(RAY_AUTH_MODE="disabled"),
                        stdout=file,
                        stderr=file,
                        start_new_session=True,
                    )
                nodes.append(node)
                while "runtime started" not in log.read_text():
                    assert node.poll() is None, log.read_text()
                    time.sleep(0.2)
            yield address
        finally:
            for node in reversed(nodes):
                node.terminate()
                node.wait(timeout=60)


def test_kill_the_driver_stop_the_cluster_start_afresh_go_on(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    mode = {"RAY_AUTH_MODE": "disabled"}
    with two_nodes() as address:
        driver = subprocess.Popen(
            [*command(storage, "--confirm-seeds=1"), f"--cluster={address}"],
            env=environment(**mode),
            stdout=subprocess.DEVNULL,
            cwd=tmp_path,
        )
        wait_for(storage, driver, 2)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        doctor = [sys.executable, str(ROOT / "scripts/doctor.py"), "--cluster", address]
        told = run([*doctor, f"--storage={storage}"], timeout=300, COLUMNS="200", **mode)
    assert told.returncode == 0, told.stdout + told.stderr
    for check in ("storage", "versions", "clock", "data set"):
        assert re.search(rf"^ok +{check} .*\([\d.]+\)", told.stdout, re.MULTILINE), told.stdout
    assert re.search(r"^warning +token +.*anyone who reaches its ports", told.stdout, re.MULTILINE)
    before = {t.number: t.value for t in study(storage).trials if t.state.name == "COMPLETE"}
    with two_nodes() as address:
        # By the environment this time, as `--cluster` without an address.
        done = run(
            [*command(storage, "--confirm-seeds=1"), "--cluster"],
            timeout=600,
            RAY_ADDRESS=address,
            **mode,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{address.removeprefix('127.0.0.1')}: 2 trials at once" in done.stdout
    assert_agreement(storage, TRIALS)
    after = {t.number: t.value for t in study(storage).trials}
    assert {number: after[number] for number in before} == before
    assert len(before) >= 1
