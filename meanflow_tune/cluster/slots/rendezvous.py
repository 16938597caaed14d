"""How the ranks of a trial find each other on several hosts."""

import fcntl
import os
import socket
import struct
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from meanflow_tune.cluster.errors import HostUnfit
from meanflow_tune.cluster.faults import one_cause
from meanflow_tune.cluster.process_use import node_label

MEETING_SECONDS = 30.0  # without the time that a process takes to import torch
START_SECONDS = 120.0

_SIOCGIFADDR = 0x8915  # netdevice(7): the address of an interface
# Set per rank, unless the user has set them where Ray was started.
_INTERFACE_VARIABLES = {"GLOO_SOCKET_IFNAME": "{}", "NCCL_SOCKET_IFNAME": "={}"}


def use_own_interface() -> None:
    """Let Gloo and NCCL use the interface whose address Ray knows this host by. Runs in each rank.

    Gloo would take what the host's name resolves to, which is 127.0.1.1 on a default Debian or
    Ubuntu. (MASTER_ADDR, which Ray Train sets, is the address that Ray knows already.)
    """
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        for variable, form in _INTERFACE_VARIABLES.items():
            os.environ.setdefault(variable, form.format(interface))


def interface_of(address: str) -> str | None:
    """The name of this host's network interface with an IPv4 address; None where none has it."""
    wanted = socket.inet_aton(address) if ":" not in address else b""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)
            except OSError:  # it has no address
                continue
            if answer[20:24] == wanted:
                return name
    return None


def check_meeting(resources: Sequence[str] = ("CPU",)) -> None:
    """Let one process of each host that can run ranks meet the others once, as ranks do.

    resources: of a rank. Raises HostUnfit where they do not reach each other; it names two hosts that do
    not, if the first host is one of them, else all.
    """
    nodes = [n for n in ray.nodes() if n["Alive"] and all(r in n["Resources"] for r in resources)]
    trouble = _meet(nodes) if len(nodes) > 1 else ""
    if not trouble:
        return
    pairs = ([nodes[0], other] for other in nodes[1:])
    apart, why = next(((pair, why) for pair in pairs if (why := _meet(pair))), (nodes, trouble))
    *others, last = map(node_label, apart)
    raise HostUnfit(
        f"the ranks of a trial on the hosts {', '.join(others)} and {last} cannot meet ({why}). Let each "
        "reach all ports of the others, or give the interface that connects them, as GLOO_SOCKET_IFNAME "
        "and NCCL_SOCKET_IFNAME in the environment of `ray start`; or use --workers-per-trial 1."
    )


def _meet(nodes: Sequence[dict[str, Any]]) -> str:
    """Why processes on these nodes do not meet; "" where they do."""
    first = nodes[0]
    try:
        port = ray.get(_on(first, _free_port).remote(), timeout=START_SECONDS)
    except ray.exceptions.RayError as error:
        return _cause(error)
    url = f"tcp://{first['NodeManagerAddress']}:{port}"
    asked = [_on(n, _join_group).remote(url, rank, len(nodes)) for rank, n in enumerate(nodes)]
    troubles: list[str] = []  # the first is the cause, others are of those that waited for it
    # All of them end, at the latest by the patience of the group. (Ray's core aborts this process where
    # a task ends while it is cancelled.)
    deadline = time.monotonic() + START_SECONDS + MEETING_SECONDS
    while asked:
        ended, asked = ray.wait(asked, timeout=max(0.0, deadline - time.monotonic()))
        if not ended:
            troubles.append("no answer in time")
            break
        try:
            ray.get(ended)
        except ray.exceptions.RayError as error:
            troubles.append(_cause(error))
    return troubles[0] if troubles else ""


def _cause(error: ray.exceptions.RayError) -> str:
    return one_cause(str(getattr(error, "cause", None) or error))


def _on(node: dict[str, Any], function: Any) -> Any:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    # Its own process, which ends with the group that it made.
    remote = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(function)
    return remote.options(scheduling_strategy=there)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def _join_group(url: str, rank: int, size: int) -> None:
    use_own_interface()
    import torch.distributed as dist

    patience = timedelta(seconds=MEETING_SECONDS)
    dist.init_process_group("gloo", init_method=url, rank=rank, world_size=size, timeout=patience)
    dist.barrier()
    dist.destroy_process_group()
