"""What a rank takes of its host, for its heartbeats."""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any

SAMPLE_SECONDS = 2.0


class ProcessUse:
    """`latest` is what was measured last, by its own thread: a GPU that hangs delays no heartbeat.

    host: the host's name with its address; pid; memory: resident bytes of this process; and once
    `device` is a GPU that is in use: gpu (its name), gpu_id, gpu_memory and gpu_memory_total (bytes)
    and, where NVIDIA's library is installed, gpu_percent.
    """

    def __init__(self, address: str) -> None:
        self.device = "cpu"
        self._always = {"host": host_label(socket.gethostname(), address), "pid": os.getpid()}
        self.latest: dict[str, Any] = dict(self._always)
        threading.Thread(target=self._run, name="process-use", daemon=True).start()

    def measure(self) -> dict[str, Any]:
        """One measurement; what cannot be measured is left out."""
        from meanflow_tune.training.system_metrics import resident

        found = dict(self._always)
        _add(found, "memory", resident)
        if self.device.startswith("cuda"):
            found |= gpu_use(self.device)
        return found

    def _run(self) -> None:
        while True:
            self.latest = self.measure()
            time.sleep(SAMPLE_SECONDS)


def gpu_use(device: str) -> dict[str, Any]:
    """Of a GPU that this process uses already: reading it must not start a context on it."""
    import torch

    found: dict[str, Any] = {}
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return found
    of = torch.cuda.get_device_properties
    _add(found, "gpu", lambda: str(of(device).name))
    _add(found, "gpu_id", lambda: str(of(device).uuid))
    _add(found, "gpu_memory_total", lambda: int(of(device).total_memory))
    _add(found, "gpu_percent", lambda: float(torch.cuda.utilization(device)))
    # Of all processes on it; without NVIDIA's library, of this one.
    _add(found, "gpu_memory", lambda: int(torch.cuda.device_memory_used(device)))
    if "gpu_memory" not in found:
        _add(found, "gpu_memory", lambda: int(torch.cuda.memory_reserved(device)))
    return found


def host_label(name: str, address: str) -> str:
    """`node7 (10.0.0.7)`; the name alone where the address is this machine's loopback, or unknown."""
    try:
        if not ip_address(address).is_loopback:
            return f"{name} ({address})"
    except ValueError:
        pass
    return name


def node_label(node: Mapping[str, Any]) -> str:
    """`host_label` of one of `ray.nodes()`."""
    return host_label(node["NodeManagerHostname"], node["NodeManagerAddress"])


def _add(found: dict[str, Any], key: str, measure: Callable[[], Any]) -> None:
    try:
        value = measure()
    except Exception:  # no NVML (of the package, the driver or the permission), or no such figure
        return
    if value is not None:
        found[key] = value
