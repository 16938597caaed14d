"""The warning of a running search before its disk is full."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from meanflow_tune.driver.disk.free_space import SECONDS, DiskWatch, measured_sizes
from meanflow_tune.plan.calibration import Sizes
from meanflow_tune.plan.plan import Plan, make_plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import TrialRecord
from tests.support.confirmation import record
from tests.support.paths import TINY_SPACE

GB = 10**9
disk = namedtuple("disk", "total used free")


class Disk:
    """A file system of 100 GB with so many bytes free, and a clock."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, free: float, total: float = 100 * GB
    ) -> None:
        self.free, self.total, self.now = free, total, 0.0
        monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(self.total, 0, self.free))


def plan_of(folder: Path) -> Plan:
    return make_plan(
        SearchRequest(
            space=str(TINY_SPACE), study="s", trials=6, storage=folder, scheduler="none", confirm=0
        )
    )


def trials(folder: Path, ended: int) -> list[TrialRecord]:
    """Of 6: each with three sparse checkpoints of 1 GB, and its samples and model of 1 MB."""
    found = []
    for number in range(ended):
        place = folder / "s" / "trials" / f"{number:05d}"
        for name in ("checkpoints/1.pt", "checkpoints/2.pt", "checkpoints/3.pt"):
            sparse(place / name, GB)
        sparse(place / "samples" / "1.npz", GB // 1000)
        sparse(place / "model" / "model.safetensors", GB // 1000)
        found.append(replace(record(number, 0.5), folder=str(place)))
    return found


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def test_a_disk_without_room_for_the_rest_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three checkpoints, three samples and two copies of a model of five more trials: 15.025 GB."""
    said: list[str] = []
    machine = Disk(monkeypatch, 16 * GB)
    watch = DiskWatch(plan_of(tmp_path), said.append, lambda: 1, lambda: machine.now)
    records = trials(tmp_path, 1)
    assert watch.look(records, ()) == []
    machine.free, machine.now = 14 * GB, SECONDS
    (line,) = watch.look(records, ())
    assert line == (
        f"only 14 GB are free in {tmp_path}, and the search may still write 15 GB: free some space, or let "
        "less stay by --keep-checkpoints, --keep-samples and --keep-models; on a full disk the search waits"
    )
    machine.now += SECONDS
    assert watch.look(records, ()) == [line]
    assert said == [line], "it stays in the status, and is said once"
    machine.free, machine.now = 30 * GB, machine.now + SECONDS
    assert watch.look(records, ()) == []


def test_the_disk_is_not_asked_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Disk(monkeypatch, 0.5 * GB)
    watch = DiskWatch(plan_of(tmp_path), lambda text: None, lambda: 1, lambda: machine.now)
    first = watch.look([], ())
    machine.free, machine.now = 50 * GB, SECONDS - 1.0
    assert watch.look([], ()) == first != []


@pytest.mark.parametrize(
    ("free", "total", "little"),
    [
        (1.0 * GB, 1000 * GB, True),  # below 1 GiB
        (2.0 * GB, 1000 * GB, False),  # 0.2 %, and enough
        (0.4 * GB, 10 * GB, True),  # below 5 %
        (0.6 * GB, 10 * GB, False),
    ],
)
def test_little_space_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, total: float, little: bool
) -> None:
    Disk(monkeypatch, free, total)
    said: list[str] = []
    lines = DiskWatch(plan_of(tmp_path), said.append, lambda: 1).look([], ())
    assert bool(lines) == bool(said) == little
    assert all(line.startswith("only ") and ": free some space" in line for line in lines)


def test_the_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    assert measured_sizes([record(0, 0.5)]) is None
    assert measured_sizes(trials(tmp_path, 2)) == Sizes(GB, GB // 1000, GB // 1000)
