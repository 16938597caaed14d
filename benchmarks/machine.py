"""The line on the machine, printed above every measurement."""

import os
import platform
from pathlib import Path

from meanflow_tune.this_machine import processors
from meanflow_tune.training.process.freed_memory import described


def machine(device: str = "cpu") -> str:
    """Processor (and GPU, where `device` is one), system and versions, for the record."""
    import torch

    model = platform.processor() or "?"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    load = os.getloadavg()[0]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    gpu = "" if device == "cpu" else f"{torch.cuda.get_device_name(device)}, "
    return (
        f"{gpu}{processors()} x {model}, {platform.system()}, {versions}, "
        f"load {load:.1f} at the start, {described()}"
    )
