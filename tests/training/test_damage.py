"""Damaged checkpoints, teachers and classifiers: told in one line, put aside, and made again to the bit."""

import hashlib
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from meanflow_tune import checksums
from meanflow_tune.config import Evaluation
from meanflow_tune.data import Digits
from meanflow_tune.formats import FormatError
from meanflow_tune.metrics import FrechetFeatures
from meanflow_tune.training import checkpoints
from meanflow_tune.training import resources as resources_module
from meanflow_tune.training.checkpoints import save_checkpoint
from meanflow_tune.training.loop import train
from meanflow_tune.training.resources import NotCached, Resources
from meanflow_tune.training.run import OtherConfiguration, Run
from meanflow_tune.training.world import World
from tests.support.ranks import launch
from tests.support.tiny_run import Memory, assert_same, tiny_config

WORLD = World()


class Payload:
    """A pickle of it creates a file where it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.canary)!r}, 'w')",)


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    return Resources(tmp_path_factory.mktemp("teachers"), WORLD)


@pytest.fixture(scope="module")
def whole(resources: Resources, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = start(resources)
    train(run, tmp_path_factory.mktemp("whole"), Memory(), None)
    return run


def start(resources: Resources) -> Run:
    config = tiny_config()
    teacher = resources.teacher(config, Memory())
    return Run.start(config, WORLD, resources.data(config), teacher)


def resumed(resources: Resources, folder: Path) -> tuple[Run, Memory]:
    run, reporter = start(resources), Memory()
    assert train(run, folder, reporter, None).status == "completed"
    return run, reporter


def with_checksum(path: Path, write: Callable[[Path], object]) -> None:
    write(path)
    path.with_suffix(".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)

    return write


def half_loaded(state: dict[str, Any]) -> None:
    """The student can be loaded, and is another one; what comes after it cannot."""
    for value in state["student"].values():
        value.add_(1.0)
    del state["optimizer"]


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "cannot be read|PytorchStreamReader failed"),
    "empty": (lambda path: path.write_bytes(b""), "torch cannot read it: EOFError"),
    "text": (lambda path: path.write_text("hello"), "torch cannot read it: KeyError"),
    "list": (lambda path: torch.save([1], path), "holds list, no state of a run"),
    "other state": (lambda path: torch.save({"x": 1}, path), "it is of no run: KeyError: 'config'"),
    "no optimizer": (changed(half_loaded), "it is of no run: KeyError: 'optimizer'"),
    "shapes": (
        changed(lambda s: s["student"].update({k: v[:1] for k, v in s["student"].items()})),
        "size mismatch|Error",
    ),
    "pickle": (
        lambda path: torch.save({"x": Payload(path.parent / "canary")}, path),
        "holds more than tensors and plain data",
    ),
}


@pytest.mark.parametrize("damage", UNREADABLE)
def test_an_unreadable_checkpoint_with_the_right_checksum_falls_back(
    resources: Resources, whole: Run, tmp_path: Path, damage: str
) -> None:
    first = start(resources)
    assert train(first, tmp_path, Memory(interrupt_after=7), None).status == "running"
    older, newest = sorted((tmp_path / "checkpoints").glob("*.pt"))
    write, why = UNREADABLE[damage]
    with_checksum(newest, write)
    run, reporter = resumed(resources, tmp_path)
    assert_same(whole, run)
    (line,) = reporter.faults
    assert line.startswith(f"checkpoint {newest} is damaged (")
    assert re.search(why, line)
    assert line.endswith("; the training continues from the one before, or from the start")
    assert "\n" not in line
    assert "weights_only" not in line
    kept = re.search(r"it is kept as (\S+);", line)
    assert kept is not None
    assert (newest.parent / kept[1]).exists()
    assert not (newest.parent / "canary").exists()
    assert older.exists()
    assert resumed(resources, tmp_path)[1].faults == [], "told once"


def test_without_any_readable_checkpoint_it_starts_again(
    resources: Resources, whole: Run, tmp_path: Path
) -> None:
    train(start(resources), tmp_path, Memory(interrupt_after=7), None)
    for path in (tmp_path / "checkpoints").glob("*.pt"):
        with_checksum(path, changed(half_loaded))
    run, reporter = resumed(resources, tmp_path)
    assert len(reporter.faults) == 2
    assert_same(whole, run)


@pytest.mark.parametrize("lost", [True, False])
def test_a_wrong_checksum_is_put_aside_and_an_unfinished_write_is_not(
    resources: Resources, whole: Run, tmp_path: Path, lost: bool
) -> None:
    train(start(resources), tmp_path, Memory(interrupt_after=7), None)
    newest = max((tmp_path / "checkpoints").glob("*.pt"))
    if lost:
        cut(newest)
    else:
        newest.with_suffix(".sha256").unlink()
    run, reporter = resumed(resources, tmp_path)
    assert_same(whole, run)
    (line,) = reporter.faults
    expected = (
        "is damaged (its checksum does not match); it is kept as" if lost else "does not count"
    )
    assert expected in line
    assert any(newest.parent.glob("*.damaged-*")) == lost


def test_a_newer_version_or_another_configuration_is_no_damage(
    resources: Resources, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "checkpoints", 32, {"step": 1})
    (path,) = (tmp_path / "checkpoints").glob("*.pt")
    with_checksum(path, changed(lambda state: state.update(format=99)))
    with pytest.raises(FormatError, match="made by a newer version"):
        train(start(resources), tmp_path, Memory(), None)
    other = Run.start(tiny_config(seed=5), WORLD, resources.data(tiny_config()), None)
    save_checkpoint(tmp_path / "checkpoints", 32, other.state_dict())
    with pytest.raises(OtherConfiguration, match="name another folder"):
        train(start(resources), tmp_path, Memory(), None)
    assert [p.name for p in (tmp_path / "checkpoints").glob("*.pt")] == [path.name]


def test_a_full_memory_is_no_damage(
    resources: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(start(resources), tmp_path, Memory(interrupt_after=7), None)

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    for module, name in ((checkpoints.torch, "load"), (Run, "load_state_dict")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(MemoryError):
                train(start(resources), tmp_path, Memory(), None)
    assert not any((tmp_path / "checkpoints").glob("*.damaged-*"))


def test_a_driver_that_lost_its_lease_renames_nothing(resources: Resources, tmp_path: Path) -> None:
    train(start(resources), tmp_path, Memory(interrupt_after=7), None)
    newest = max((tmp_path / "checkpoints").glob("*.pt"))
    cut(newest)

    def fence() -> None:
        raise RuntimeError("another driver")

    with pytest.raises(RuntimeError, match="another driver"):
        train(start(resources), tmp_path, Memory(), None, fence=fence)
    assert newest.exists()


def velocities(resources: Resources, reporter: Memory) -> torch.Tensor:
    teacher = resources.teacher(tiny_config(), reporter)
    assert teacher is not None
    return teacher(torch.linspace(-1, 1, 10).reshape(5, 2), torch.full((5,), 0.3))


TEACHER_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "its checksum does not match"),
    "cut, old cache": (lambda p: (cut(p), checksums.checksum_file(p).unlink()), "cannot be loaded"),
    "pickle, right checksum": (
        lambda p: checksums.write_checked(
            p, lambda to: torch.save(Payload(p.parent / "canary"), to)
        ),
        "cannot be loaded",
    ),
    "other tensors, right checksum": (
        lambda p: checksums.write_checked(p, lambda to: save_file({"x": torch.zeros(1)}, to)),
        "cannot be loaded",
    ),
    "wrong checksum": (
        lambda p: checksums.checksum_file(p).write_text("0" * 64),
        "its checksum does not match",
    ),
}


@pytest.mark.parametrize("damage", TEACHER_DAMAGE)
@pytest.mark.parametrize("checkpoint", ["kept", "damaged", "gone"])
def test_a_damaged_teacher_is_made_again(tmp_path: Path, damage: str, checkpoint: str) -> None:
    made = Resources(tmp_path, WORLD)
    before = velocities(made, Memory())
    path = made.teacher_folder(tiny_config()) / "teacher.safetensors"
    write, why = TEACHER_DAMAGE[damage]
    write(path)
    for each in (path.parent / "checkpoints").glob("*.pt"):
        if checkpoint == "damaged":
            with_checksum(each, lambda p: p.write_bytes(b"nothing"))
        elif checkpoint == "gone":
            each.unlink()
    reporter = Memory()
    assert torch.equal(velocities(Resources(tmp_path, WORLD), reporter), before)
    line, *rest = reporter.faults
    assert line.startswith(f"{path} is damaged (")
    assert why in line
    assert re.search(r"; it is kept as teacher.safetensors.damaged-\S+ and made again$", line)
    assert all("\n" not in each for each in reporter.faults)
    assert bool(rest) == (checkpoint == "damaged")
    assert not (path.parent / "canary").exists()
    again = Memory()
    assert torch.equal(velocities(Resources(tmp_path, WORLD), again), before)
    assert again.faults == []


def test_an_old_cache_is_accepted_once_and_gets_a_checksum(tmp_path: Path) -> None:
    before = velocities(made := Resources(tmp_path, WORLD), Memory())
    path = made.teacher_folder(tiny_config()) / "teacher.safetensors"
    checksums.checksum_file(path).unlink()
    reporter = Memory()
    assert torch.equal(velocities(Resources(tmp_path, WORLD), reporter), before)
    assert reporter.faults == []
    assert checksums.recorded(path) == checksums.digest(path)


def test_of_several_slots_that_find_the_damage_one_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources_module, "POLL_SECONDS", 0.05)
    before = velocities(made := Resources(tmp_path, WORLD), Memory())
    path = made.teacher_folder(tiny_config()) / "teacher.safetensors"
    cut(path)
    trained: list[int] = []
    real = resources_module.train
    monkeypatch.setattr(
        resources_module, "train", lambda *a, **k: trained.append(1) or real(*a, **k)
    )
    everybody, reporters, found = threading.Barrier(4), [Memory() for _ in range(4)], []
    read = resources_module.read_checked

    def together(each: Path) -> bytes:
        try:
            return read(each)
        finally:
            if not everybody.broken:
                everybody.wait(30)
                everybody.abort()

    monkeypatch.setattr(resources_module, "read_checked", together)

    def slot(reporter: Memory) -> None:
        try:
            found.append(velocities(Resources(tmp_path, WORLD), reporter))
        except threading.BrokenBarrierError:
            found.append(velocities(Resources(tmp_path, WORLD), reporter))

    threads = [threading.Thread(target=slot, args=(reporter,)) for reporter in reporters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 4
    assert all(torch.equal(each, before) for each in found)
    assert trained == [1]
    assert sum(len(reporter.faults) for reporter in reporters) == 1
    assert len(list(path.parent.glob("teacher.safetensors.damaged-*.sha256"))) == 1


def test_a_disk_that_damages_what_was_just_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(path: Path, content: Any) -> None:
        checksums.write_checked(path, content)
        if path.suffix == ".safetensors":
            cut(path)

    monkeypatch.setattr(resources_module, "write_checked", lossy)
    with pytest.raises(OSError, match=r"damaged right after it was written .*; check that disk"):
        Resources(tmp_path, WORLD).teacher(tiny_config(), Memory())


def test_who_only_looks_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotCached, match="is not in the cache"):
        Resources(tmp_path / "none", WORLD, makes=False).teacher(tiny_config(), Memory())
    assert not (tmp_path / "none").exists()
    made = Resources(tmp_path, WORLD)
    made.teacher(tiny_config(), Memory())
    path = made.teacher_folder(tiny_config()) / "teacher.safetensors"
    cut(path)
    with pytest.raises(NotCached, match=r"is damaged \(its checksum does not match\)"):
        Resources(tmp_path, WORLD, makes=False).teacher(tiny_config(), Memory())
    assert path.exists()


def test_a_damaged_classifier_is_made_again(tmp_path: Path) -> None:
    evaluation = Evaluation(nfe=(1,), samples=64, metrics=(FrechetFeatures(),))
    config = tiny_config(data=Digits(), evaluation=evaluation)
    data = Resources(tmp_path, WORLD).data(config)
    x, made = data.held_out_x[:8], []
    for _ in range(2):
        reporter = Memory()
        made.append(Resources(tmp_path, WORLD)._classifier(data, reporter)(x))
        (path,) = tmp_path.glob("classifier-*.safetensors")
        cut(path)
    (line,) = reporter.faults
    assert line.startswith(f"{path} is damaged (its checksum does not match)")
    assert torch.equal(*made)


TWO_RANKS = """
import sys, torch, torch.distributed as dist
from pathlib import Path
from meanflow_tune.training.loop import train
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World, end_rank
from tests.support.tiny_run import Memory, tiny_config

folder = Path(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo")
world = World(dist.get_rank(), dist.get_world_size())
resources, config, reporter = Resources(folder / "teachers", world), tiny_config(), Memory()
teacher = resources.teacher(config, reporter)
run = Run.start(config, world, resources.data(config), teacher)
limit = None if sys.argv[2] == "end" else 1
outcome = train(run, folder / "run", Memory(stop_after=limit) if limit else reporter, None)
torch.save(run.averaged_state(), folder / f"{sys.argv[2]}-{world.rank}.pt")
if world.leads:
    (folder / f"{sys.argv[2]}.txt").write_text(chr(10).join([outcome.status, *reporter.faults]))
end_rank()
"""


@pytest.mark.slow
def test_all_ranks_take_the_same_decision(tmp_path: Path) -> None:
    """Damage to a teacher and to the newest checkpoint; both ranks end with the same weights."""
    for folder in (tmp_path / "whole", tmp_path / "damaged"):
        folder.mkdir()
        if folder.name == "damaged":
            launch(folder, 2, TWO_RANKS, "first")
            (teacher,) = folder.glob("teachers/*/teacher.safetensors")
            cut(teacher)
            (newest,) = (folder / "run" / "checkpoints").glob("*.pt")
            with_checksum(newest, changed(half_loaded))
        launch(folder, 2, TWO_RANKS, "end")
    status, *faults = (tmp_path / "damaged" / "end.txt").read_text().splitlines()
    assert status == "completed"
    assert len(faults) == 2
    states = [
        torch.load(tmp_path / name / f"end-{rank}.pt", weights_only=True)
        for name in ("whole", "damaged")
        for rank in (0, 1)
    ]
    for state in states[1:]:
        assert all(torch.equal(state[name], value) for name, value in states[0].items())


def test_ranks_that_read_different_files_say_so(tmp_path: Path) -> None:
    """Of a storage that is not the same on all hosts: nothing is put aside, and a retry may help."""

    class Two(World):
        def gather(self, value: Any) -> list[Any]:
            return [value, ("another digest", "")]

    made = Resources(tmp_path, WORLD)
    made.teacher(tiny_config(), Memory())
    path = made.teacher_folder(tiny_config()) / "teacher.safetensors"
    two = Resources(tmp_path, Two())
    with pytest.raises(OSError, match=r"read different files there; check that all hosts mount"):
        two.teacher(tiny_config(), Memory())
    assert path.exists()
