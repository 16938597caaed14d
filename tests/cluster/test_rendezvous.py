"""The network interface of an address, without Ray."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from meanflow_tune.cluster.errors import HostUnfit
from meanflow_tune.cluster.slots import rendezvous


def test_the_interface_of_an_address() -> None:
    assert rendezvous.interface_of("127.0.0.1") == "lo"
    assert rendezvous.interface_of("203.0.113.7") is None
    assert rendezvous.interface_of("::1") is None


def test_a_rank_takes_its_interface_from_rays_address_unless_the_user_has_set_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rendezvous.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    rendezvous.use_own_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    assert os.environ["NCCL_SOCKET_IFNAME"] == "ib0"
    monkeypatch.undo()


def node(name: str) -> dict[str, Any]:
    where = {"NodeManagerHostname": name, "NodeManagerAddress": f"10.0.0.{name}"}
    return {"NodeID": name, "Alive": True, "Resources": {"CPU": 1.0}, **where}


@pytest.mark.parametrize(
    ("apart", "named"),
    [
        ({"1", "3"}, "1 (10.0.0.1) and 3 (10.0.0.3) cannot"),
        ({"2", "3"}, "1 (10.0.0.1), 2 (10.0.0.2) and 3 (10.0.0.3) cannot"),  # not tried as a pair
    ],
)
def test_only_hosts_that_were_tried_are_named(
    monkeypatch: pytest.MonkeyPatch, apart: set[str], named: str
) -> None:
    def meet(nodes: list[dict[str, Any]]) -> str:
        return "timed out" if apart <= {one["NodeID"] for one in nodes} else ""

    hosts = [node(name) for name in "123"]
    monkeypatch.setattr(rendezvous, "_meet", meet)
    monkeypatch.setattr(rendezvous, "ray", SimpleNamespace(nodes=lambda: hosts))
    with pytest.raises(HostUnfit) as caught:
        rendezvous.check_meeting()
    assert f"on the hosts {named} meet (timed out)" in str(caught.value)


def test_a_host_that_starts_no_process_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(*_: object, **__: object) -> None:
        raise ray.exceptions.GetTimeoutError("not ready")

    stand_in = SimpleNamespace(
        get=get, nodes=lambda: [node("1"), node("2")], exceptions=ray.exceptions
    )
    monkeypatch.setattr(rendezvous, "ray", stand_in)
    monkeypatch.setattr(rendezvous, "_on", lambda node, function: SimpleNamespace(remote=dict))
    with pytest.raises(
        HostUnfit, match=r"1 \(10.0.0.1\) and 2 \(10.0.0.2\) cannot meet \(not ready"
    ):
        rendezvous.check_meeting()
