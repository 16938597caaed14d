"""Folders for Ray's files, of several processes, containers and users."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from meanflow_tune.cluster.connection import ray_folder
from meanflow_tune.cluster.connection.ray_folder import LOCK, OLD_SECONDS, own_folder
from meanflow_tune.cluster.errors import ClusterError
from tests.support.needs import needs_root
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this user, in a temporary folder of its own."""
    monkeypatch.setattr(ray_folder, "LONGEST", 500)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / f"mft-{os.getuid()}"


def test_a_folder_is_private_and_removed(parent: Path) -> None:
    made = own_folder()
    assert made.path.parent == parent
    assert [stat.S_IMODE(p.stat().st_mode) for p in (parent, made.path)] == [0o700, 0o700]
    made.release()
    assert not made.path.exists()


def test_one_in_use_by_a_process_that_cannot_be_seen_is_left_alone(parent: Path) -> None:
    """As in another container: only the lock tells. After its end, the folder is removed."""
    code = f"""
import tempfile
from meanflow_tune.cluster.connection import ray_folder
tempfile.tempdir, ray_folder.LONGEST = {str(parent.parent)!r}, 500
made = ray_folder.own_folder()
print(made.path, flush=True)
input()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    theirs = Path(other.stdout.readline().strip())
    (theirs / "session").mkdir()
    own_folder().release()
    assert (theirs / "session").is_dir()
    other.kill()
    other.wait()
    own_folder().release()
    assert not theirs.exists()


def test_what_is_no_folder_of_ours_stays(parent: Path) -> None:
    own_folder().release()
    (parent / "notes").mkdir()  # or one whose lock is just being made
    (parent / "file").write_text("")
    (parent / "link").symlink_to("/tmp")
    own_folder().release()
    assert sorted(p.name for p in parent.iterdir()) == ["file", "link", "notes"]


def test_without_locks_age_decides(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    first = own_folder()
    (first.path / "log").write_text("x")
    second = own_folder()
    assert first.path.exists()
    old = time.time() - OLD_SECONDS - 60
    for path in (first.path / "log", first.path / LOCK, first.path):
        os.utime(path, (old, old))
    third = own_folder()
    assert not first.path.exists()
    assert second.path.exists()
    for made in (second, third):
        made.release()


def test_a_symbolic_link_is_refused_and_another_folder_used(parent: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    parent.symlink_to(target)
    made = own_folder()
    assert made.path.parent != parent
    assert list(target.iterdir()) == []
    (note,) = made.notes
    assert note == f"Ray's files are in {made.path}, not in {parent}: a symbolic link."
    made.release()


def test_one_of_another_user_is_refused_and_another_folder_used(parent: Path) -> None:
    needs_root("to give a folder to another user")
    parent.mkdir(mode=0o777)
    os.chown(parent, 12345, -1)
    made = own_folder()
    assert made.path.parent != parent
    (note,) = made.notes
    assert note.endswith(f"not in {parent}: belongs to user 12345, not to {os.getuid()}.")
    made.release()


def test_an_open_one_is_closed(parent: Path) -> None:
    parent.mkdir()
    parent.chmod(0o777)
    own_folder().release()
    assert stat.S_IMODE(parent.stat().st_mode) == 0o700


def test_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(ray_folder, "make_private", refuse)
    with pytest.raises(ClusterError, match="TMPDIR"):
        own_folder()
