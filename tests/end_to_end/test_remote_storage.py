"""A search whose study is in PostgreSQL and whose files are in S3, killed and resumed on another host."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune import results
from meanflow_tune.remote.object_store import ObjectStore
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.trials import read_records
from tests.support.paths import ROOT
from tests.support.processes.commands import command, environment, run
from tests.support.servers.postgresql import PASSWORD, PostgresServer
from tests.support.servers.s3 import SECRET, S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
NAME, TRIALS = "tiny_space", 3
OPTIONS = (
    "--max-concurrent=1",
    "--sampler=random",
    "--scheduler=none",
    "--confirm=0",
    "--set=budget.images=1280",
    "--set=teacher.budget.images=640",
)


def values_of(location: str | Path) -> list[dict[str, Any]]:
    """What training found, by trial, without clocks and places."""
    return [
        {
            "status": record.status,
            "params": record.params,
            "rungs": [(report.images, report.metrics) for report in record.reports],
        }
        for record in read_records(open_storage(location), NAME, Path())
    ]


def wait_for_a_rung(url: str, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 600
    while time.monotonic() < end:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        try:
            found = read_records(open_storage(url), NAME, Path())
        except OSError:
            found = []
        if len(found) >= 2 and found[1].reports:
            return
        time.sleep(0.1)
    pytest.fail("no trial reached a rung")


def script(name: str, *arguments: str, cache: Path, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment(MEANFLOW_TUNE_CACHE=str(cache), **more),
        cwd=cache.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_killed_and_resumed_on_another_host(
    postgres: PostgresServer, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "local" / "runs"
    local.parent.mkdir()
    undisturbed = run(command(local, *OPTIONS, trials=TRIALS), timeout=900)
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr

    url, study, tracking = s3.new_url(), postgres.new_url(), postgres.new_url()
    given = [*command(Path("x"), *OPTIONS, trials=TRIALS)]
    given = [word for word in given if not word.startswith("--storage")]
    given += [f"--storage={url}", f"--study-storage={study}", f"--tracking-uri={tracking}"]
    hosts = [tmp_path / name for name in ("one", "other", "reader")]
    first = subprocess.Popen(
        given,
        env=environment(MEANFLOW_TUNE_CACHE=str(hosts[0])),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for_a_rung(study, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    shutil.rmtree(hosts[0], ignore_errors=True)  # the host is gone

    second = subprocess.run(
        given,
        env=environment(MEANFLOW_TUNE_CACHE=str(hosts[1])),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    said = second.stdout + second.stderr
    assert second.returncode == 0, said
    assert "resumed" in said
    assert PASSWORD not in said
    assert values_of(study) == values_of(local / NAME / "study.journal")

    stored = {file.name for file in ObjectStore(url).files("")}
    assert {f"{NAME}/manifest.json", f"{NAME}/best.json", f"{NAME}/report.html"} <= stored
    assert any(name.startswith("teachers/") for name in stored)
    assert any(name.startswith(f"artifacts/{NAME}/") for name in stored)
    assert not [name for name in stored if name.endswith((".tmp", ".lock"))]
    for number in range(TRIALS):
        assert f"{NAME}/trials/{number:05d}/config.json" in stored
    assert not list((hosts[1]).rglob("*.pt")), "the local copy is not bounded"

    status = script("tune.py", "--status", f"--study={NAME}", *given[-3:], cache=hosts[2])
    assert "no driver at work" in status
    assert f"{TRIALS} trials: {TRIALS} completed" in status
    monkeypatch.setenv("MEANFLOW_TUNE_CACHE", str(hosts[2]))
    tables = results.load(f"{url}/{NAME}")
    assert set(tables.trials["number"]) == set(range(TRIALS))
    grid = tmp_path / "grid.png"
    best = f"{url}/{NAME}/best.json"
    script("sample.py", best, "--n=4", "--nfe=1", f"--out={grid}", cache=hosts[2])
    assert grid.stat().st_size > 0
    page = tmp_path / "page.html"
    script(
        "report.py",
        f"--storage={url}",
        f"--study={NAME}",
        f"--study-storage={study}",
        f"--out={page}",
        cache=hosts[2],
    )
    text = page.read_text()
    assert PASSWORD not in text
    assert SECRET not in text
