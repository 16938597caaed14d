"""Files of a user's folder on workers that do not see it: copied alone, and imported by their names."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meanflow_tune.cluster.shipping import stage
from tests.support.paths import PROCESSES, ROOT, TINY_SPACE
from tests.support.ports import free_ports
from tests.support.processes.commands import environment

PART = """
class Part:
    def value(self):
        return {value}
"""
SPACE = """
import helper_of_a_user
from packaged.inner import Part as Packaged
from .near import Part as Near


class Own:
    def value(self):
        return 4


PARTS = [helper_of_a_user.Part(), Packaged(), Near(), Own()]
"""


def test_only_the_files_themselves_are_copied(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "runs").mkdir(parents=True)
    (folder / "runs" / "large.bin").write_bytes(b"x")
    (folder / "a.py").write_text("A = 1\n")
    (folder / "b.py").write_text("B = 2\n")
    places = {"a.py": folder / "a.py", "package/deep/b.py": folder / "b.py"}
    staged = stage(places, tmp_path / "staged")
    assert staged == [str(tmp_path / "staged" / name) for name in ("a.py", "package")]
    copied = [path for path in (tmp_path / "staged").rglob("*") if path.is_file()]
    assert {path.read_text() for path in copied} == {"A = 1\n", "B = 2\n"}
    assert stage({}, tmp_path / "none") == []


@contextmanager
def _head() -> Iterator[str]:
    port = free_ports()
    ray = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--num-cpus=1",
    ]
    ray += ["--object-store-memory=100000000", "--disable-usage-stats", f"--port={port}"]
    ray += ["--include-dashboard=false", f"--ray-client-server-port={port + 1}"]
    with tempfile.TemporaryDirectory(prefix="mft", dir="/tmp", ignore_cleanup_errors=True) as temp:
        log = Path(temp) / "head.log"
        with log.open("w") as file:
            node = subprocess.Popen(
                [*ray, f"--temp-dir={temp}/ray"],
                env=environment(RAY_AUTH_MODE="disabled"),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            while "runtime started" not in log.read_text():
                assert node.poll() is None, log.read_text()
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            node.terminate()
            node.wait(timeout=60)


@pytest.mark.cluster
@pytest.mark.parametrize("where", ["local", "cluster"])
def test_a_worker_unpickles_parts_of_a_folder_that_it_does_not_see(
    tmp_path: Path, where: str
) -> None:
    folder = tmp_path / "mine"
    (folder / "packaged").mkdir(parents=True)
    (folder / "packaged" / "__init__.py").write_text("")
    (folder / "helper_of_a_user.py").write_text(PART.format(value=1))
    (folder / "packaged" / "inner.py").write_text(PART.format(value=2))
    (folder / "near.py").write_text(PART.format(value=3))
    text = TINY_SPACE.read_text(encoding="utf-8")
    (folder / "space.py").write_text(text.replace("GOAL =", f"{SPACE}\nGOAL =", 1))
    script = [sys.executable, str(PROCESSES / "ship_parts.py"), str(folder / "space.py")]

    def run(address: str) -> list[str]:
        mode = {} if address == "local" else {"RAY_AUTH_MODE": "disabled"}
        done = subprocess.run(
            [*script, address],
            env=environment(PYTHONPATH=str(ROOT), **mode),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    if where == "local":
        lines = run("local")
    else:
        with _head() as address:
            lines = run(address)
    assert lines == [
        "helper_of_a_user 1",
        "packaged.inner 2",
        "_space_space.near 3",
        "_space_space 4",
    ]
