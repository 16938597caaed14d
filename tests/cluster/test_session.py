"""Addresses, unreachable clusters and the private folder, without starting Ray."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from meanflow_tune.cluster import session
from meanflow_tune.cluster.errors import ClusterError, ClusterUnreachable
from meanflow_tune.cluster.worker import is_infrastructure


@pytest.mark.parametrize(
    "address, expected",
    [
        ("10.0.0.1:6380", ("10.0.0.1", 6380)),
        ("head", ("head", 6379)),
        ("[::1]:7000", ("::1", 7000)),
        ("[::1]", ("::1", 6379)),
        ("::1", ("::1", 6379)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert session.parse_address(address) == expected


@pytest.mark.parametrize("address", ["ray://head:10001", "head:", ":6379", "head:port", "h:70000"])
def test_bad_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        session.parse_address(address)


@pytest.mark.timeout(20)
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = dict(os.environ)
    with pytest.raises(ClusterUnreachable, match=f"127.0.0.1:{port}.*ray start"):
        session.join(f"127.0.0.1:{port}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(ClusterUnreachable, match=str(port)):
        session.join()
    monkeypatch.undo()
    assert dict(os.environ) == before


def test_a_private_ray_that_does_not_come_up_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an overloaded machine Ray gives up after 30 s, by an exception of no class of its own."""
    import ray

    def too_slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThe GCS is overloaded.")

    monkeypatch.setattr(ray, "init", too_slow)
    monkeypatch.setattr(session, "_own_folder", lambda: tmp_path)
    before = dict(os.environ)
    with pytest.raises(ClusterError, match=r"timed out during startup.*overloaded") as caught:
        session.start_local(cpus=1)
    assert "\n" not in str(caught.value)
    assert dict(os.environ) == before


def test_folders_of_dead_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.tempfile, "gettempdir", lambda: "/tmp")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    first = session._own_folder()
    left, other = first.with_name(f"{dead.pid}-0a0b"), first.with_name("notes")
    left.mkdir()
    other.mkdir(exist_ok=True)
    second = session._own_folder()
    assert first.exists()
    assert second.exists()
    assert other.exists()
    assert not left.exists()
    for folder in (first, second, other):
        folder.rmdir()


@pytest.mark.parametrize(
    "error, expected",
    [
        (ConnectionResetError("x"), True),
        (OSError(28, "No space left on device"), True),
        (RuntimeError("[../gloo/pair.cc] Connection closed by peer [10.0.0.1]:1"), True),
        (FileNotFoundError("teacher.pt"), False),
        (RuntimeError("shape mismatch"), False),
        (ValueError("Connection closed by peer"), False),
    ],
)
def test_what_is_worth_another_try(error: Exception, expected: bool) -> None:
    assert is_infrastructure(error) is expected
