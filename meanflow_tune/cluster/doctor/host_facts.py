"""What a host says of itself: runs on each host as a Ray task, or on this machine alone."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

# Other versions of these on a worker's host change numbers or break pickled objects.
PACKAGES = ("ray", "torch", "pydantic", "numpy")
# Of which parts without a public interface are used (tests/test_private_api.py): any minor release may
# change those, so that pyproject.toml allows these minor releases only.
TESTED = {"ray": "2.60", "optuna": "5.0"}
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class HostFacts:
    """Bytes, seconds since the epoch; None where it cannot be told.

    nonce: what the storage's file says; error: why the storage cannot be used; gpus: names of those that
    torch sees; data: fingerprint of the data set, data_error: why it cannot be loaded.
    """

    nonce: str
    error: str
    versions: dict[str, str]
    clock: float
    free_storage: int | None
    free_temporary: int | None
    shared_memory: int | None
    open_files: int
    gpus: tuple[str, ...] = field(default=())
    gpu_driver: str = ""
    cuda: str = ""
    data: str = ""
    data_error: str = ""


def describe_host(folder: str, name: str, example: dict[str, Any] | None) -> HostFacts:
    """example: a configuration whose data set is loaded, None for no look at data and GPUs."""
    error, nonce = "", ""
    try:
        nonce = (Path(folder) / name).read_text(encoding="utf-8")
        (Path(folder) / f"{name}-{os.uname().nodename}-{os.getpid()}").write_text("seen")
    except OSError as problem:
        error = str(problem)
    more: dict[str, Any] = {}
    if example is not None:
        more = {**_gpus(), **_data(example)}
    return HostFacts(
        nonce=nonce,
        error=error,
        versions=installed_versions(),
        free_storage=_free(Path(folder)),
        free_temporary=_free(Path(tempfile.gettempdir())),
        shared_memory=_free(SHARED_MEMORY),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        clock=time.time(),
        **more,
    )


def installed_versions() -> dict[str, str]:
    """Python, and each of PACKAGES."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"python": python, **{package: _version(package) for package in PACKAGES}}


def untested_versions() -> dict[str, str]:
    """Packages of TESTED that are here in another minor release, with their version."""
    found = {package: _version(package) for package in TESTED}
    return {p: v for p, v in found.items() if v.split(".")[:2] != TESTED[p].split(".")}


def differing_versions(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """The packages that have another version than wanted, in words; "" where none has."""
    return ", ".join(
        f"{package} {found.get(package, 'missing')} instead of {version}"
        for package, version in wanted.items()
        if found.get(package) != version
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _gpus() -> dict[str, Any]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "gpus": tuple(torch.cuda.get_device_name(index) for index in range(count)),
        "gpu_driver": _gpu_driver(),
        "cuda": torch.version.cuda or "",
    }


def _gpu_driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else ""


def _data(example: dict[str, Any]) -> dict[str, str]:
    from meanflow_tune.training.job import data_fingerprint

    try:
        return {"data": data_fingerprint(example)}
    except Exception as problem:
        return {"data_error": " ".join(f"{type(problem).__name__}: {problem}".split())[:300]}
