"""Commands without HOME, without an entry in the table of users, and with a home that cannot be written."""

import getpass
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meanflow_tune.driver.process import home
from meanflow_tune.driver.process.home import ensure_home
from tests.support.needs import unavailable
from tests.support.paths import ROOT, TINY_SPACE


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home.tempfile, "gettempdir", lambda: str(tmp_path))
    for name in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)


def test_a_usable_home_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    ensure_home()
    assert dict(os.environ) == before


def test_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(getpass, "getuser", nobody)
    for name in ("HOME", "USER"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    ensure_home()
    assert os.environ["HOME"] == str(tmp_path / f"mft-home-{os.getuid()}")
    assert os.environ["USER"] == f"uid-{os.getuid()}"


def test_a_read_only_home_stays_for_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may always write
    ensure_home()
    assert os.environ["HOME"] == str(tmp_path)
    assert os.environ["MPLCONFIGDIR"].startswith(str(tmp_path / "mft-home-"))


def unknown_user(*command: str) -> list[str]:
    """The command as a user without an entry, in an empty environment."""
    new = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if subprocess.run([*new, "true"], capture_output=True, check=False).returncode:
        unavailable("needs user namespaces")
    clean = ["env", "-i", "PATH=/usr/bin:/bin", f"PYTHONPATH={ROOT}", "OMP_NUM_THREADS=1"]
    return [*clean, *new, sys.executable, str(ROOT / "scripts" / "tune.py"), *command]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_dry_run_of_an_unknown_user(tmp_path: Path) -> None:
    words = unknown_user(f"--space={TINY_SPACE}", f"--storage={tmp_path}", "--dry-run")
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("Nothing was started.")
    assert done.stderr == ""


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_search_of_an_unknown_user(tmp_path: Path) -> None:
    words = [f"--space={TINY_SPACE}", f"--storage={tmp_path}", "--trials=2", "--confirm=0"]
    words += ["--set=budget.images=6400", "--max-concurrent=1"]
    done = subprocess.run(
        unknown_user(*words), capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 completed" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
