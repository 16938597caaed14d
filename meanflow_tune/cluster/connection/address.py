"""The address of a Ray cluster, and what answers there."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from meanflow_tune.cluster.connection.ray_folder import is_private
from meanflow_tune.cluster.errors import ClusterUnreachable, TokenRefused

PROBE_SECONDS = 3.0
ANSWER_SECONDS = 5.0
RETRY_SECONDS = 2.0
DEFAULT_PORT = 6379
# Answered by every Ray head with the random name of its cluster; the request is empty.
_CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"


def parse_address(address: str) -> tuple[str, int]:
    """(host, port) of `host`, `host:port` or `[v6]:port`; ValueError otherwise."""
    if address.startswith("ray://"):
        raise ValueError(
            f"{address!r} is an address of Ray Client, which cannot run a search; run the command "
            f"on a host of the cluster with its head's address, host:{DEFAULT_PORT}"
        )
    host, colon, port = address.rpartition(":")
    if not colon or "]" in port or (":" in host and not host.startswith("[")):
        host, port = address, str(DEFAULT_PORT)
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"a cluster's address is host or host:port, but got {address!r}")
    return host.strip("[]"), int(port)


def find_address(address: str | None) -> tuple[str, int]:
    """Where `join` goes: the address given, else RAY_ADDRESS, else the cluster of this host.

    Raises ClusterUnreachable where this host belongs to no cluster, or to several; ValueError where what
    was given is no address.
    """
    found = address or os.environ.get("RAY_ADDRESS") or "auto"
    return parse_address(_local_head() if found == "auto" else found)


def check_reachable(
    address: str, wait: float | None = None, say: Callable[[str], None] = print
) -> None:
    """Raises ClusterUnreachable, within seconds, unless a Ray head answers where `join` would go.

    address: as given, or "" for RAY_ADDRESS or this host's; wait: for so many seconds, said once. Raises
    ValueError where it is not an address.
    """
    deadline = time.monotonic() + (wait or 0.0)
    said = False
    while True:
        try:
            cluster_id(*find_address(address), token="")
        except TokenRefused:
            return  # a head, whose token `join` checks
        except ClusterUnreachable as error:
            if time.monotonic() >= deadline:
                raise
            if not said:
                say(f"waiting up to {wait:.0f} s for the Ray cluster: {error}")
                said = True
            time.sleep(RETRY_SECONDS)
        else:
            return


def cluster_id(host: str, port: int, token: str, seconds: float = ANSWER_SECONDS) -> bytes:
    """The name of the cluster whose head answers there; it changes with each start of a head.

    Raises TokenRefused where it wants another token, ClusterUnreachable where no Ray head answers in time.
    """
    probe(host, port)
    import grpc

    # Not by Ray's own client, which ends the process when nothing answers.
    with _channel(host, port) as channel:
        ask = channel.unary_unary(_CLUSTER_ID)
        sent = [("authorization", f"Bearer {token}")] if token else []
        try:
            return bytes(ask(b"", timeout=seconds, metadata=sent))
        except grpc.RpcError as error:
            code, details = error.code(), " ".join(str(error.details()).split())
    where = f"{host}:{port}"
    if code == grpc.StatusCode.UNAUTHENTICATED:
        raise TokenRefused(f"the Ray cluster at {where} refuses the token: {details}")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        found = "is the port of another service, such as Ray Client or a worker"
    elif answers_http(host, port):
        found = "answers HTTP, as Ray's dashboard does"
    elif code == grpc.StatusCode.DEADLINE_EXCEEDED:
        found = f"accepts a connection but does not answer within {seconds:.0f} s"
    else:
        found = f"does not speak Ray's protocol ({details[:200]})"
    raise ClusterUnreachable(
        f"{where} {found}; the port of a Ray head is {DEFAULT_PORT} unless `ray start --head --port` "
        "says otherwise. Give the head's address: --cluster HOST:PORT, or RAY_ADDRESS."
    )


def probe(host: str, port: int, seconds: float = PROBE_SECONDS) -> None:
    """Raises ClusterUnreachable unless something listens there (Ray itself tries for minutes)."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        raise ClusterUnreachable(
            f"no Ray cluster answers at {host}:{port} ({error}). Start one there with `ray start "
            "--head`, give the right address (--cluster HOST:PORT or RAY_ADDRESS), or leave "
            "--cluster out to run on this machine."
        ) from error


def answers_http(host: str, port: int, seconds: float = 2.0) -> bool:
    """Whether an HTTP server answers there, as Ray's dashboard does."""
    connection = HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True


def _channel(host: str, port: int) -> Any:
    import grpc

    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # As Ray: proxies are for the web. Its own channel, so that no earlier failure delays it.
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(target, options)
    from ray._private.tls_utils import load_certs_from_env

    certificate, key, authority = load_certs_from_env()
    secure = grpc.ssl_channel_credentials(authority, key, certificate)
    return grpc.secure_channel(target, secure, options)


def _local_head() -> str:
    """Address of the cluster that this host's Ray processes belong to; the private ones of searches, of
    whatever user, are left out.
    """
    found = _heads_of_this_host()
    if len(found) == 1:
        return found.pop()
    problem = "no Ray runs here"
    if found:
        problem = f"several Ray clusters run here ({', '.join(sorted(found))})"
    raise ClusterUnreachable(f"{problem}; say which: --cluster HOST:PORT, or RAY_ADDRESS")


def check_node_here(host: str, port: int, seconds: float = ANSWER_SECONDS) -> None:
    """Raises ClusterUnreachable unless this host is one of the cluster: Ray itself looks for a minute.

    seconds: for a node that is just starting. Hosts have several names, so that only ports are compared.
    """
    deadline = time.monotonic() + seconds
    while not any(head.endswith(f":{port}") for head in _heads_of_this_host()):
        if time.monotonic() >= deadline:
            raise ClusterUnreachable(
                f"a Ray head answers at {host}:{port}, but this host ({socket.gethostname()}) is not in its "
                "cluster, or its Ray has ended. Run the command on a host of the cluster, or `ray start "
                f"--address={host}:{port}` here first (with --num-cpus=0 it runs no trials)."
            )
        time.sleep(0.5)


def _heads_of_this_host() -> set[str]:
    """What the Ray processes of this host are told of their heads, host:port; without private Rays."""
    found = set()
    for line in _command_lines():
        words = line.split("\0")
        if Path(words[0]).name == "raylet" and not is_private(line):
            found |= {w.partition("=")[2] for w in words if w.startswith("--gcs-address=")}
    return found


def _command_lines() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield process.read_text(errors="replace")
