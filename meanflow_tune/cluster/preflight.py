"""Checks of a cluster before a search: resources, shared storage and package versions of every host."""

import os
import secrets
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from meanflow_tune.cluster.errors import HostUnfit

# Other versions of these on a worker's host change numbers or break pickled objects.
PACKAGES = ("ray", "torch", "pydantic", "numpy")
ANSWER_SECONDS = 120.0


def check_resources(
    total: dict[str, float], count: int, workers: int, resources_per_worker: dict[str, float]
) -> None:
    """Raises HostUnfit unless `count` slots of `workers` ranks fit into `total` resources."""
    for kind, amount in resources_per_worker.items():
        need, have = count * workers * amount, total.get(kind, 0.0)
        if need > have + 1e-9:
            raise HostUnfit(
                f"{count} slots of {workers} workers with {amount:g} {kind} each need {need:g}, "
                f"but the cluster has {have:g} {kind}. Lower --max-concurrent, --workers-per-trial or "
                f"--{kind.lower()}s-per-worker."
            )


def check_hosts(storage: Path | str) -> list[dict[str, Any]]:
    """The name, Python and package versions of each host.

    Raises HostUnfit, naming the host, when one does not see `storage`, cannot write there, or has
    other versions than this process.
    """
    folder = Path(storage).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    nonce, name = secrets.token_hex(16), f".preflight-{secrets.token_hex(4)}"
    (folder / name).write_text(nonce)
    ours = _versions()
    try:
        nodes = [n for n in ray.nodes() if n["Alive"]]
        asked = [_ask(n, folder, name) for n in nodes]
        answers = [_answer(node, ref) for node, ref in zip(nodes, asked, strict=True)]
    finally:
        for left in folder.glob(f"{name}*"):
            left.unlink(missing_ok=True)
    for answer in answers:
        _check(answer, nonce, ours, folder)
    return answers


def _ask(node: dict[str, Any], folder: Path, name: str) -> Any:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    remote = ray.remote(num_cpus=0, max_retries=1)(_describe_host)
    return remote.options(scheduling_strategy=there).remote(str(folder), name)


def _answer(node: dict[str, Any], ref: Any) -> dict[str, Any]:
    host = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    try:
        answer: dict[str, Any] = ray.get(ref, timeout=ANSWER_SECONDS)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise HostUnfit(
            f"host {host} does not answer a test task ({text}). Take it out of the cluster, or see "
            "its Ray logs."
        ) from error
    return {"host": host, **answer}


def _check(answer: dict[str, Any], nonce: str, ours: dict[str, str], folder: Path) -> None:
    host = answer["host"]
    if answer["nonce"] != nonce or answer["error"]:
        raise HostUnfit(
            f"host {host} cannot use the storage {folder} ({answer['error'] or 'other content'}). "
            "--storage must be a folder that all hosts share, at the same path, and may write."
        )
    _check_versions(host, answer["versions"], ours)


def _check_versions(host: str, found: dict[str, str], ours: dict[str, str]) -> None:
    differing = [
        f"{p} {found.get(p, 'missing')} instead of {v}"
        for p, v in ours.items()
        if found.get(p) != v
    ]
    if differing:
        raise HostUnfit(
            f"host {host} has {', '.join(differing)}. Install the same versions on all hosts."
        )


@dataclass(frozen=True)
class HostNeeds:
    """What a host must have to run ranks, for those that join while a search runs.

    folder: of the study, which exists and must be writable; versions: of Python and the packages.
    """

    folder: str
    versions: dict[str, str]

    @classmethod
    def of_driver(cls, folder: Path) -> "HostNeeds":
        """What this process has."""
        return cls(str(folder.absolute()), _versions())

    def check_here(self) -> None:
        """Raises HostUnfit. Runs in each rank, before the ranks meet."""
        host = os.uname().nodename
        if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
            raise HostUnfit(
                f"host {host} does not see the study's folder {self.folder}, or may not write there. "
                "--storage must be a folder that all hosts share, at the same path."
            )
        _check_versions(host, _versions(), self.versions)


def _describe_host(folder: str, name: str) -> dict[str, Any]:
    """Runs on each host."""
    error, nonce = "", ""
    try:
        nonce = (Path(folder) / name).read_text()
        (Path(folder) / f"{name}-{os.uname().nodename}-{os.getpid()}").write_text("seen")
    except OSError as problem:
        error = str(problem)
    return {"nonce": nonce, "error": error, "versions": _versions()}


def _versions() -> dict[str, str]:
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found
