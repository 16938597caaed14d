"""Which GPUs a private Ray hands out, and which it refuses before it starts."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from meanflow_tune import this_machine
from meanflow_tune.cluster import runner
from meanflow_tune.cluster.errors import HostUnfit
from meanflow_tune.cluster.runner import Runner
from meanflow_tune.cluster.signals import Interrupt
from tests.support.processes.fake_training import run_job


class Started(Exception):
    """Instead of a Ray; holds what it would have been started with."""


def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> tuple[Any, ...]:
    @contextlib.contextmanager
    def start_local(*arguments: Any, **more: Any) -> Iterator[None]:
        raise Started(*arguments)
        yield

    monkeypatch.setattr(runner, "start_local", start_local)
    asked: dict[str, Any] = {
        "cluster": None,
        "workers": 1,
        "max_concurrent": None,
        "cpus_per_worker": 1.0,
        "gpus_per_worker": None,
        "storage": tmp_path,
        "study": tmp_path / "s",
        "epoch": 1,
        "interrupt": Interrupt(),
        "run_job": run_job,
    }
    with pytest.raises(Started) as caught, Runner.start(**(asked | given)):
        pass
    return caught.value.args


@pytest.mark.parametrize(
    ("visible", "gpus"), [("", 0), ("-1", 0), ("2,5", 2), ("MIG-a,MIG-b,MIG-c", 3)]
)
def test_a_private_ray_has_the_processors_and_gpus_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, gpus: int
) -> None:
    monkeypatch.setenv(this_machine.VISIBLE, visible)
    monkeypatch.setattr(this_machine, "processors", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(visible.split(",")))
    assert start(tmp_path, monkeypatch)[:2] == (1, gpus)
    # One trial always fits.
    assert start(tmp_path, monkeypatch, cpus_per_worker=2.5)[:2] == (3, gpus)


def test_ranks_on_slices_of_gpus_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(this_machine.VISIBLE, "MIG-a,MIG-b")
    with pytest.raises(HostUnfit, match=r"--workers-per-trial 1, or --gpus-per-worker 0"):
        start(tmp_path, monkeypatch, workers=2)
    assert start(tmp_path, monkeypatch, workers=2, gpus_per_worker=0.0)[1] == 2
