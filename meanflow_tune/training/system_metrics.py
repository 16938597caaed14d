"""What a rank takes of its host while it trains, from the standard library and torch alone."""

import os
import time

import torch

MEGABYTE = 2**20


class SystemSampler:
    """Called at each point of a curve; rates are over the time since the last call.

    cpu_percent: of this process, 100 per busy core; memory_mb: resident; load: processes that want to
    run on the host, over a minute; gpu_memory_mb, gpu_percent: of the device, the latter where NVIDIA's
    library is installed.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._processor, self._wall = time.process_time(), time.perf_counter()

    def __call__(self) -> dict[str, float]:
        processor, wall = time.process_time(), time.perf_counter()
        busy = (processor - self._processor) / max(wall - self._wall, 1e-9)
        self._processor, self._wall = processor, wall
        found = {"cpu_percent": 100.0 * busy, "load": os.getloadavg()[0]}
        memory = resident()
        if memory is not None:
            found["memory_mb"] = memory / MEGABYTE
        if self._device.startswith("cuda"):
            found["gpu_memory_mb"] = torch.cuda.memory_reserved(self._device) / MEGABYTE
            try:
                found["gpu_percent"] = float(torch.cuda.utilization(self._device))
            except Exception:  # no NVML: of the package, the driver or the permission
                return found
        return found


def resident() -> int | None:
    """Bytes; None where the kernel does not tell (not Linux)."""
    try:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
