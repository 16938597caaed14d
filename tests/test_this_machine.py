"""What a process may use, from small copies of /proc and /sys as batch systems and containers make them."""

import os
from pathlib import Path

import pytest
import torch

from meanflow_tune import this_machine
from meanflow_tune.this_machine import gpus, memory, processors, slices, visible_gpus

V2 = "30 24 0:27 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = (
    "31 24 0:28 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
    "32 24 0:29 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
)
GIB = 2**30


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(this_machine.SLURM, raising=False)


def machine(
    root: Path, cgroup: str, mounts: tuple[str, ...] | list[str], files: dict[str, str]
) -> Path:
    """64 processors and 256 GiB, of which the cgroup of this process allows less."""
    for name, text in {
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": "\n".join(mounts),
        "proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-63\n",
        "proc/meminfo": f"MemTotal:  {256 * 2**20} kB\nMemFree: 1 kB\n",
        **files,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_without_limits(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/", [V2.format(top="/")], {})
    assert processors(root) == 64
    assert memory(root) == 256 * GIB


def test_a_batch_node_with_one_allowed_core(tmp_path: Path) -> None:
    files = {"proc/self/status": "Cpus_allowed_list:\t17\n"}
    assert processors(machine(tmp_path, "0::/", [], files)) == 1


def test_affinity_may_have_holes(tmp_path: Path) -> None:
    files = {"proc/self/status": "Cpus_allowed_list:\t0-3,8,10-11\n"}
    assert processors(machine(tmp_path, "0::/", [], files)) == 7


def test_the_least_quota_of_the_hierarchy_counts(tmp_path: Path) -> None:
    """As systemd nests them: the slice above allows less than the job's own group."""
    files = {
        "sys/fs/cgroup/batch.slice/job/cpu.max": "800000 100000\n",
        "sys/fs/cgroup/batch.slice/cpu.max": "350000 100000\n",
        "sys/fs/cgroup/batch.slice/job/memory.max": "max\n",
        "sys/fs/cgroup/batch.slice/memory.max": f"{8 * GIB}\n",
        "sys/fs/cgroup/batch.slice/job/memory.high": f"{6 * GIB}\n",
    }
    root = machine(tmp_path, "0::/batch.slice/job", [V2.format(top="/")], files)
    assert processors(root) == 3
    assert memory(root) == 6 * GIB


def test_a_quota_below_one_processor_is_one(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "50000 100000\n"}
    assert processors(machine(tmp_path, "0::/", [V2.format(top="/")], files)) == 1


def test_a_container_that_sees_the_path_of_its_host(tmp_path: Path) -> None:
    """Without a cgroup namespace, the mount begins at the container's own group."""
    files = {
        "sys/fs/cgroup/cpu.max": "200000 100000",
        "sys/fs/cgroup/memory.max": str(4 * GIB),
    }
    root = machine(tmp_path, "0::/docker/3f", [V2.format(top="/docker/3f")], files)
    assert (processors(root), memory(root)) == (2, 4 * GIB)


def test_version_1_of_cgroups(tmp_path: Path) -> None:
    cgroup = "4:memory:/slurm/job_7\n2:cpuacct,cpu:/slurm/job_7\n0::/"
    files = {
        "sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us": "400000\n",
        "sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes": f"{16 * GIB}\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    root = machine(tmp_path, cgroup, [line.format(top="/") for line in V1], files)
    assert (processors(root), memory(root)) == (4, 16 * GIB)


def test_what_cannot_be_read_limits_nothing(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "nonsense", "sys/fs/cgroup/memory.max": ""}
    root = machine(tmp_path, "0::/", ["torn line", V2.format(top="/")], files)
    assert (processors(root), memory(root)) == (64, 256 * GIB)


@pytest.mark.parametrize(
    ("value", "expected"), [("8", 8), ("128", 64), ("", 64), ("0", 64), ("many", 64)]
)
def test_slurm_without_confined_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: int
) -> None:
    monkeypatch.setenv(this_machine.SLURM, value)
    assert processors(machine(tmp_path, "0::/", [], {})) == expected


def test_affinity_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= processors() <= len(allowed)
    assert memory() is not None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", []),
        ("-1", []),
        ("0,2", ["0", "2"]),
        ("1, -1, 2", ["1"]),
        ("MIG-4b1f,GPU-77", ["MIG-4b1f", "GPU-77"]),
        ("NoDevFiles", []),
    ],
)
def test_visible_gpus(value: str | None, expected: list[str] | None) -> None:
    environment = {} if value is None else {this_machine.VISIBLE: value}
    assert visible_gpus(environment) == expected


@pytest.mark.parametrize(
    ("value", "count", "sliced"),
    [("", 0, 0), ("-1", 0, 0), ("MIG-a,MIG-b", 2, 2), ("0,1,2", 3, 0), (None, 4, 0)],
)
def test_gpus_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch, value: str | None, count: int, sliced: int
) -> None:
    """Torch, here a stand-in on a machine of four, is not asked about slices, of which it sees one."""
    monkeypatch.delenv(this_machine.VISIBLE, raising=False)
    if value is not None:
        monkeypatch.setenv(this_machine.VISIBLE, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(visible_gpus() or "four"))
    assert (gpus(), slices()) == (count, sliced)
