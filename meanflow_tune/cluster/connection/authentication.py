"""Whether a cluster asks for a token, and the one that this process has."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from meanflow_tune.cluster.connection.address import cluster_id
from meanflow_tune.cluster.errors import ClusterError, TokenRefused

MODE = "RAY_AUTH_MODE"
_OPEN = (
    "takes no token: anyone who reaches its ports can run code as its users and read their files. To close "
    f"it, start Ray on every host with {MODE}=token and the same token file "
    "(docs/on-a-cluster.md, Tokens)"
)


@dataclass(frozen=True)
class Access:
    """How this process talks to a cluster.

    mode: for RAY_AUTH_MODE, the same as the cluster's; token: "" for none; cluster: its id, b"" if it
    cannot be asked; notes: a line for each door that stands open.
    """

    mode: str
    token: str
    cluster: bytes
    notes: tuple[str, ...] = ()


def authenticate(host: str, port: int, require_token: bool = False) -> Access:
    """Find out what the cluster asks for. Raises ClusterError, within 10 s, where it refuses this process.

    require_token: refuse a cluster without tokens, and a token file that others can read.
    """
    where, mode = f"the Ray cluster at {host}:{port}", os.environ.get(MODE, "").lower()
    try:
        found = cluster_id(host, port, token="")
    except TokenRefused:
        return _with_token(host, port, mode, require_token)
    if require_token:
        raise ClusterError(f"--require-token: {where} {_OPEN}.")
    if mode == "token":
        raise ClusterError(f"{MODE}=token is set here, but {where} {_OPEN}, or unset {MODE} here.")
    return Access("disabled", "", found, (f"{where} {_OPEN}.",))


def _with_token(host: str, port: int, mode: str, require_token: bool) -> Access:
    where = f"the Ray cluster at {host}:{port}"
    if mode not in ("", "token", "disabled"):
        return Access(mode, "", b"")  # of Kubernetes, which only Ray can read
    if mode == "disabled":
        raise ClusterError(f"{where} asks for a token, but {MODE}=disabled is set here; unset it.")
    token, source = find_token()
    if not token:
        raise ClusterError(
            f"{where} asks for a token, and there is none here: copy the head's token file to {source} "
            "with mode 0600, or set RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN."
        )
    try:
        found = cluster_id(host, port, token)
    except TokenRefused:
        raise ClusterError(
            f"{where} refuses the token of {source}: it is not the head's. Copy the head's token there."
        ) from None
    notes = exposure(source)
    if notes and require_token:
        raise ClusterError(f"--require-token: {notes[0]}")
    return Access("token", token, found, notes)


def find_token() -> tuple[str, str]:
    """The token that Ray takes here, and where it is from; "" and where it should be, without one."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    home = os.environ.get("HOME") or "/"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path(home) / ".ray" / "auth_token")
    try:
        return path.read_text(errors="replace").strip(), str(path)
    except OSError:
        return "", str(path)


def exposure(source: str) -> tuple[str, ...]:
    """A line if the token file can be read by others."""
    path = Path(source)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # a variable
        return ()
    if not mode & 0o077:
        return ()
    return (
        f"the token file {path} has mode {mode:04o}: other users can take it; chmod 600 {path}.",
    )
