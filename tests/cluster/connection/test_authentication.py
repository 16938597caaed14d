"""Tokens of clusters: missing, wrong, not asked for, readable by others."""

from pathlib import Path

import pytest

from meanflow_tune.cluster.connection.authentication import authenticate
from meanflow_tune.cluster.errors import ClusterError
from tests.support.servers.heads import head

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a token would be; nothing is set."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    return path


def test_an_open_cluster_is_joined_with_one_line(token_file: Path) -> None:
    token_file.write_text("stray")
    with head(b"one") as port:
        access = authenticate(HOST, port)
    # Explicitly, since the stray file would turn tokens on.
    assert (access.mode, access.token, access.cluster) == ("disabled", "", b"one")
    (note,) = access.notes
    assert "takes no token: anyone who reaches its ports can run code" in note
    assert "RAY_AUTH_MODE=token" in note
    assert "\n" not in note


def test_require_token_refuses_an_open_cluster() -> None:
    with head(b"one") as port, pytest.raises(ClusterError, match=r"--require-token.*anyone"):
        authenticate(HOST, port, require_token=True)


def test_a_token_that_an_open_cluster_does_not_want(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with head(b"one") as port, pytest.raises(ClusterError, match="RAY_AUTH_MODE=token is set here"):
        authenticate(HOST, port)


@pytest.mark.timeout(10)
def test_a_missing_and_a_wrong_token_are_named(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with head(b"one", token="secret") as port:
        with pytest.raises(ClusterError, match=f"there is none here.*{token_file}.*0600"):
            authenticate(HOST, port)
        token_file.write_text("wrong")
        with pytest.raises(ClusterError, match=f"refuses the token of {token_file}"):
            authenticate(HOST, port)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong, too")
        with pytest.raises(ClusterError, match="refuses the token of RAY_AUTH_TOKEN"):
            authenticate(HOST, port)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(ClusterError, match="RAY_AUTH_MODE=disabled is set here"):
            authenticate(HOST, port)


def test_a_token_file_that_others_can_read(token_file: Path) -> None:
    token_file.write_text("secret\n")
    token_file.chmod(0o644)
    with head(b"one", token="secret") as port:
        access = authenticate(HOST, port)
        assert (access.mode, access.token) == ("token", "secret")
        (note,) = access.notes
        assert "0644" in note
        assert f"chmod 600 {token_file}" in note
        with pytest.raises(ClusterError, match=r"--require-token.*chmod 600"):
            authenticate(HOST, port, require_token=True)
        token_file.chmod(0o600)
        assert authenticate(HOST, port, require_token=True).notes == ()
