"""The network interface of an address, without Ray."""

import os

import pytest

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
