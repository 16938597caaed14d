"""Running a job: resources made once, teachers shared between processes, fenced writes, an export."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from meanflow_tune.config import Budget, TeacherConfig
from meanflow_tune.core.random import make_generator
from meanflow_tune.records import Job
from meanflow_tune.search.errors import LeaseLost
from meanflow_tune.search.store.lease import Lease, check_epoch
from meanflow_tune.training import resources as resources_module
from meanflow_tune.training.job import run_job
from meanflow_tune.training.resources import Interrupted, Resources
from meanflow_tune.training.world import World
from tests.support.tiny_run import NET, Memory, tiny_config


def job(folder: Path, epoch: int = 1) -> Job:
    return Job("study", 0, tiny_config().to_dict(), str(folder), 0, epoch)


def test_a_job_leaves_configuration_checkpoint_samples_and_model(tmp_path: Path) -> None:
    folder, reporter = tmp_path / "study" / "trials" / "00000", Memory()
    outcome = run_job(job(folder), 0, 1, "cpu", reporter, cache=str(tmp_path / "teachers"))
    assert outcome.status == "completed"
    assert [report.images for report in reporter.reports] == [128, 320]
    assert json.loads((folder / "config.json").read_text()) == tiny_config().to_dict()
    about = json.loads((folder / "model" / "config.json").read_text())
    assert (about["shape"], about["classes"]) == ([2], None)
    net = NET.build((2,), None, make_generator(0, "any"))
    net.load_state_dict(load_file(folder / "model" / "student.safetensors"))
    assert Path(reporter.reports[-1].artifacts["samples"]).is_file()


def test_a_newer_lease_stops_the_writing(tmp_path: Path) -> None:
    """A worker of a killed driver must not write into a trial that another driver took over."""
    study = tmp_path / "study"
    folder = study / "trials" / "00000"
    folder.mkdir(parents=True)
    for epoch in (1, 2):
        with Lease.acquire(study) as lease:
            assert lease.epoch == epoch
    cache = str(tmp_path / "teachers")
    with pytest.raises(LeaseLost, match=r"epoch 2, but this job has 1"):
        run_job(job(folder), 0, 1, "cpu", Memory(), cache=cache, fence=check_epoch)
    assert list(folder.iterdir()) == []
    run_job(job(folder, epoch=2), 0, 1, "cpu", Memory(), cache=cache, fence=check_epoch)
    assert (folder / "checkpoints").exists()


def test_the_files_of_another_trial_of_the_same_number_are_put_aside(tmp_path: Path) -> None:
    """A study restored from a backup gives the numbers that came after it a second time."""
    folder, cache = tmp_path / "study" / "trials" / "00000", str(tmp_path / "teachers")
    folder.mkdir(parents=True)
    with Lease.acquire(tmp_path / "study"):
        pass
    other = replace(job(folder), config=tiny_config(seed=5).to_dict())
    run_job(other, 0, 1, "cpu", Memory(), cache=cache, fence=check_epoch)
    reporter = Memory()
    outcome = run_job(job(folder), 0, 1, "cpu", reporter, cache=cache, fence=check_epoch)
    assert outcome.status == "completed"
    (kept,) = folder.parent.glob("00000.other-*")
    assert (kept / "model" / "student.safetensors").is_file()
    (line,) = reporter.faults
    assert "holds another trial of this number, which the study's storage does not know" in line
    assert f"it is kept as {kept.name}, and the trial starts from zero images" in line
    again = Memory()
    run_job(job(folder), 0, 1, "cpu", again, cache=cache, fence=check_epoch)
    assert (again.faults, again.reports) == ([], reporter.reports)


def test_a_teacher_is_trained_once_and_found_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    real = resources_module.train

    def counted(*args: Any, **kwargs: Any) -> Any:
        trained.append(kwargs["phase"])
        return real(*args, **kwargs)

    monkeypatch.setattr(resources_module, "train", counted)
    x, t = torch.randn(5, 2), torch.full((5,), 0.3)
    outputs = []
    for _ in range(2):  # a second Resources is what a second process sees
        velocity = Resources(tmp_path, World()).teacher(tiny_config(), Memory())
        assert velocity is not None
        outputs.append(velocity(x, t))
    assert trained == ["teacher"]
    assert torch.equal(*outputs)
    other = tiny_config(teacher=TeacherConfig(model=NET, budget=Budget(images=64, global_batch=64)))
    Resources(tmp_path, World()).teacher(other, Memory())
    assert trained == ["teacher", "teacher"], "another budget is another teacher"


def test_of_two_slots_one_trains_the_teacher_and_the_other_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    real = resources_module.train
    monkeypatch.setattr(
        resources_module, "train", lambda *a, **k: trained.append("one") or real(*a, **k)
    )
    slots = [Resources(tmp_path, World()) for _ in range(2)]
    threads = [threading.Thread(target=s.teacher, args=(tiny_config(), Memory())) for s in slots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert trained == ["one"]
    folder = slots[0].teacher_folder(tiny_config())
    assert all((folder, False) in slot._nets for slot in slots)


def test_an_interrupted_teacher_goes_on_where_it_stopped(tmp_path: Path) -> None:
    config = tiny_config()
    with pytest.raises(Interrupted):
        Resources(tmp_path, World()).teacher(config, Memory(interrupt_after=4))
    resources = Resources(tmp_path, World())
    assert list((resources.teacher_folder(config) / "checkpoints").glob("*.pt"))
    assert resources.teacher(config, Memory()) is not None
