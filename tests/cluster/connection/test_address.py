"""Addresses, and what is found there instead of a Ray head."""

import socket
import threading
import time
from concurrent import futures

import grpc
import pytest

from meanflow_tune.cluster.connection import address
from meanflow_tune.cluster.connection.ray_folder import PRIVATE
from meanflow_tune.cluster.errors import ClusterUnreachable, TokenRefused
from tests.support.ports import free_ports
from tests.support.servers.heads import head
from tests.support.servers.listeners import answering, greeting, silent


@pytest.mark.parametrize(
    "text, expected",
    [
        ("10.0.0.1:6380", ("10.0.0.1", 6380)),
        ("head", ("head", 6379)),
        ("[::1]:7000", ("::1", 7000)),
        ("[::1]", ("::1", 6379)),
        ("::1", ("::1", 6379)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert address.parse_address(text) == expected


@pytest.mark.parametrize("text", ["ray://head:10001", "head:", ":6379", "head:port", "h:70000"])
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        address.parse_address(text)


@pytest.mark.timeout(10)
def test_the_dashboards_port_is_named() -> None:
    with answering(200) as port, pytest.raises(ClusterUnreachable) as caught:
        address.check_reachable(f"127.0.0.1:{port}")
    said = str(caught.value)
    assert said.startswith(f"127.0.0.1:{port} answers HTTP, as Ray's dashboard does; the port")
    assert "6379" in said
    assert "\n" not in said


@pytest.mark.timeout(12)
def test_a_port_that_accepts_and_is_silent_is_named_within_ten_seconds() -> None:
    began = time.monotonic()
    with silent() as port, pytest.raises(ClusterUnreachable, match="does not answer within"):
        address.check_reachable(f"127.0.0.1:{port}")
    assert time.monotonic() - began < 10


@pytest.mark.timeout(12)
def test_another_protocol_is_named() -> None:
    with greeting() as port, pytest.raises(ClusterUnreachable, match="does not speak Ray"):
        address.check_reachable(f"127.0.0.1:{port}")


def test_another_service_of_ray_is_named() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ClusterUnreachable, match="port of another service"):
            address.check_reachable(f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()


def test_a_head_tells_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    # As inside a company; Ray itself ignores it.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    with head(b"one") as port:
        assert address.cluster_id("127.0.0.1", port, "") == b"one"
        address.check_reachable(f"127.0.0.1:{port}")
    with head(b"one", token="secret") as port:
        assert address.cluster_id("127.0.0.1", port, "secret") == b"one"
        address.check_reachable(f"127.0.0.1:{port}")
        with pytest.raises(TokenRefused):
            address.cluster_id("127.0.0.1", port, "")


@pytest.mark.timeout(30)
def test_a_head_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "RETRY_SECONDS", 0.1)
    port, said = free_ports(1), []
    with pytest.raises(ClusterUnreachable):
        address.check_reachable(f"127.0.0.1:{port}", 0.5, said.append)
    assert len(said) == 1
    assert "waiting" in said[0]
    up = threading.Event()

    def start() -> None:
        time.sleep(0.5)
        with head(b"one", port=port):
            up.wait()

    thread = threading.Thread(target=start)
    thread.start()
    try:
        address.check_reachable(f"127.0.0.1:{port}", 20.0, said.append)
    finally:
        up.set()
        thread.join()


def test_private_rays_of_searches_are_nobodys_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def raylet(*words: str) -> str:
        return "\0".join(["/x/raylet", *words])

    ours = raylet("--gcs-address=127.0.0.1:1", f"--temp_dir=/tmp{PRIVATE}/0a0b")
    theirs = raylet("--gcs-address=127.0.0.1:2", "--temp_dir=/tmp/mft-4242-0a/0a0b")
    one, two = raylet("--gcs-address=10.0.0.1:6379"), raylet("--gcs-address=10.0.0.2:6379")
    for lines, expected in (
        ([ours, theirs], "no Ray runs here"),
        ([ours, theirs, one, two], "several"),
    ):
        monkeypatch.setattr(address, "_command_lines", lambda lines=lines: lines)
        with pytest.raises(ClusterUnreachable, match=expected):
            address.find_address(None)
    monkeypatch.setattr(
        address, "_command_lines", lambda: [ours, theirs, one, one, "/bin/raylet-log\0x"]
    )
    assert address.find_address(None) == ("10.0.0.1", 6379)


@pytest.mark.timeout(10)
def test_a_host_that_is_not_in_the_cluster_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray itself looks for a node on this host for a minute."""
    here = "/x/raylet\0--gcs-address=10.0.0.1:6379"
    monkeypatch.setattr(address, "_command_lines", lambda: [here])
    address.check_node_here("head", 6379)
    with pytest.raises(ClusterUnreachable) as caught:
        address.check_node_here("head", 637, seconds=0.1)
    said = str(caught.value)
    assert (
        f"a Ray head answers at head:637, but this host ({socket.gethostname()}) is not in" in said
    )
    assert "`ray start --address=head:637` here first" in said


def test_a_node_that_is_just_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([[], [], ["/x/raylet\0--gcs-address=10.0.0.1:6379"]])
    monkeypatch.setattr(address, "_command_lines", lambda: next(seen))
    address.check_node_here("10.0.0.1", 6379)
    assert list(seen) == []
