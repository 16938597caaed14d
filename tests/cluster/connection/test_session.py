"""Joining and leaving Ray, without starting it."""

import os
import socket

import pytest

from meanflow_tune.cluster.connection import local_ray, session
from meanflow_tune.cluster.errors import ClusterError, ClusterUnreachable
from meanflow_tune.cluster.worker import is_infrastructure


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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On an overloaded machine Ray gives up after 30 s, by an exception of no class of its own."""
    import ray

    def too_slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThe GCS is overloaded.")

    monkeypatch.setattr(ray, "init", too_slow)
    before = dict(os.environ)
    with pytest.raises(ClusterError, match=r"timed out during startup.*overloaded") as caught:
        local_ray.start_local(cpus=1)
    assert "\n" not in str(caught.value)
    assert dict(os.environ) == before


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
