"""What heartbeats say of a rank; nothing that cannot be measured fails or delays one."""

import threading
from types import SimpleNamespace

import pytest
import torch

from meanflow_tune.cluster import process_use
from meanflow_tune.cluster.process_use import ProcessUse, host_label

GPU = {"gpu_memory_total", "gpu_memory", "gpu_percent", "gpu", "gpu_id"}


def test_a_host_is_named_with_the_address_that_others_reach() -> None:
    assert host_label("node7", "10.0.0.7") == "node7 (10.0.0.7)"
    assert host_label("node7", "fd00::7") == "node7 (fd00::7)"
    assert [host_label("laptop", a) for a in ("127.0.0.1", "::1", "")] == ["laptop"] * 3


def test_a_process_tells_its_memory_and_no_gpu_where_it_uses_none() -> None:
    use = ProcessUse("10.0.0.7")
    assert use.latest["host"].endswith(" (10.0.0.7)"), "also before the first measurement"
    found = use.measure()
    assert 2**20 < found["memory"] < 2**40
    use.device = "cuda:0"
    assert not GPU & use.measure().keys(), "reading it would start a context"


def use_gpu(monkeypatch: pytest.MonkeyPatch) -> ProcessUse:
    gpu = SimpleNamespace(name="NVIDIA H200", uuid="GPU-7", total_memory=140 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 93)
    monkeypatch.setattr(torch.cuda, "device_memory_used", lambda device: 7 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * 2**30)
    use = ProcessUse("10.0.0.7")
    use.device = "cuda:0"
    return use


def test_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = use_gpu(monkeypatch).measure()
    assert {key: found[key] for key in GPU} == {
        "gpu": "NVIDIA H200",
        "gpu_id": "GPU-7",
        "gpu_memory_total": 140 * 2**30,
        "gpu_memory": 7 * 2**30,
        "gpu_percent": 93.0,
    }


def test_without_nvidias_library_the_memory_is_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(device: str) -> int:
        raise ModuleNotFoundError("pynvml does not seem to be installed")

    use = use_gpu(monkeypatch)
    for name in ("utilization", "device_memory_used"):
        monkeypatch.setattr(torch.cuda, name, missing)
    found = use.measure()
    assert (found["gpu_memory"], "gpu_percent" in found) == (5 * 2**30, False)


def test_a_gpu_that_hangs_delays_no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, go_on = threading.Event(), threading.Event()

    def hang(device: str) -> float:
        hangs.set()
        go_on.wait(10.0)
        return 0.0

    monkeypatch.setattr(process_use, "SAMPLE_SECONDS", 0.01)
    use = use_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "utilization", hang)
    assert hangs.wait(10.0)
    assert "host" in use.latest
    go_on.set()
