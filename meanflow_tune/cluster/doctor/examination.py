"""Asks every host of the cluster that this process has joined, and checks what they answer."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from meanflow_tune.cluster.doctor.diagnosis import Finding
from meanflow_tune.cluster.doctor.host_checks import (
    Answer,
    check_alike,
    check_host,
    check_tested,
)
from meanflow_tune.cluster.doctor.host_facts import HostFacts, describe_host, untested_versions
from meanflow_tune.cluster.process_use import node_label

ANSWER_SECONDS = 120.0


def examine_hosts(storage: Path | str, example: dict[str, Any] | None) -> list[Finding]:
    """Findings of each living host. example: a configuration; None leaves out its data set and the GPUs."""
    folder = Path(storage).absolute()
    with _nonce(folder) as (name, nonce):
        ours = describe_host(str(folder), name, example)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = [(node, time.time(), _ask(node, folder, name, example)) for node in nodes]
        answers, findings = [], []
        deadline = time.monotonic() + ANSWER_SECONDS
        for node, began, question in asked:
            try:
                facts: HostFacts = ray.get(question, timeout=max(1.0, deadline - time.monotonic()))
            except Exception as error:  # of Ray, or of the host itself: a finding in any case
                findings.append(_silent(node, error))
                continue
            gpus = float(node["Resources"].get("GPU", 0.0))
            answers.append(Answer(node_label(node), facts, began, time.time(), gpus))
    for answer in answers:
        findings += check_host(answer, nonce, ours, folder)
    return [*findings, *check_alike(answers), *check_tested(untested_versions())]


def examine_here(storage: Path | str, example: dict[str, Any] | None) -> list[Finding]:
    """The same of this machine alone, without Ray."""
    folder = Path(storage).absolute()
    with _nonce(folder) as (name, nonce):
        began = time.time()
        ours = describe_host(str(folder), name, example)
        answer = Answer("", ours, began, time.time(), float(len(ours.gpus)))
    found = [*check_host(answer, nonce, ours, folder), *check_tested(untested_versions())]
    return [finding for finding in found if finding.check != "clock"]  # its own


@contextmanager
def _nonce(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and content of a file in `folder` that only those who share it can know."""
    folder.mkdir(parents=True, exist_ok=True)
    nonce, name = secrets.token_hex(16), f".preflight-{secrets.token_hex(4)}"
    (folder / name).write_text(nonce, encoding="utf-8")
    try:
        yield name, nonce
    finally:
        for left in folder.glob(f"{name}*"):
            left.unlink(missing_ok=True)


def _ask(node: dict[str, Any], folder: Path, name: str, example: dict[str, Any] | None) -> Any:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    remote = ray.remote(num_cpus=0, max_retries=1)(describe_host)
    return remote.options(scheduling_strategy=there).remote(str(folder), name, example)


def _silent(node: dict[str, Any], error: Exception) -> Finding:
    text = " ".join(str(error).split())[:300]
    return Finding(
        "host",
        node_label(node),
        "fault",
        f"does not answer a test task ({text})",
        "Take it out of the cluster, or see its Ray logs.",
    )
