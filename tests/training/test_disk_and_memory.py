"""Full disks, lost files and lack of memory: what a trial does, and what it says of itself."""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from meanflow_tune import arrays, checksums, files, this_machine
from meanflow_tune.config import TrialConfig
from meanflow_tune.files import is_full
from meanflow_tune.metrics import TeacherGap
from meanflow_tune.records import Job, Outcome, Report, Reporter
from meanflow_tune.training import checkpoints, disk_wait, job, loop, resources
from meanflow_tune.training.disk_wait import NO_SPACE, Interrupted
from meanflow_tune.training.divergence import Diverged
from meanflow_tune.training.loop import train
from meanflow_tune.training.memory import UNKNOWN, cap_gpu_memory, memory_shortage
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.disks import small_disk
from tests.support.studies import make_ledger
from tests.support.tiny_run import Memory, tiny_config

WORLD = World()


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    Resources(folder, WORLD).evaluator(tiny_config(), Memory())
    return folder


class Stopping(Memory):
    """Asks to stop after so many reports."""

    def __init__(self, reports: int) -> None:
        super().__init__()
        self._most = reports

    def stopping(self) -> bool:
        return len(self.reports) >= self._most


def run(folder: Path, reporter: Reporter, teachers: Path, **changes: Any) -> Outcome:
    made = Job("study", 0, tiny_config(**changes).to_dict(), str(folder), 0, 1)
    return job.run_job(made, 0, 1, "cpu", reporter, cache=str(teachers))


def measured(report: Report) -> dict[str, float]:
    """What does not depend on where a run was interrupted."""
    return {k: v for k, v in report.metrics.items() if not k.startswith("loss/")}


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "checkpoint")


# ---- a full disk ------------------------------------------------------------------------------


def test_a_full_disk_is_seen_through_every_library(tmp_path: Path) -> None:
    """torch and safetensors hide it in errors of their own, which are no OSError."""
    from safetensors.torch import save_file

    weights = {"x": torch.zeros(500_000)}

    def save(path: Path) -> None:
        with open(path, "wb") as file:
            np.savez(file, x=weights["x"].numpy())

    with small_disk(tmp_path / "small", 1) as disk:
        for write in (
            lambda path: checkpoints._write(path, weights),
            lambda path: save_file(weights, path),
            save,
            "x" * 2_000_000,
        ):
            with pytest.raises(OSError) as caught:
                files.write_atomic(disk / "file", write)
            assert caught.value.errno == errno.ENOSPC
            assert list(disk.iterdir()) == [], "no temporary file is left"
    assert not is_full(OSError(errno.EIO, "Input/output error"))
    assert not is_full(RuntimeError("unexpected pos 576 vs 534"))


WRITES: list[tuple[Any, str]] = [
    (job, "write_atomic"),
    (job, "export_student"),
    (loop, "save_checkpoint"),
    (checkpoints, "write_atomic"),
]


@pytest.mark.parametrize(
    "module, name", WRITES, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_job_waits_for_space_and_goes_on_as_if_nothing_had_been(
    tmp_path: Path, teachers: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    whole = Memory()
    assert run(tmp_path / "whole", whole, teachers).status == "completed"
    real, failures, slept = getattr(module, name), 3, []

    def sometimes(*arguments: Any, **keywords: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            full()
        return real(*arguments, **keywords)

    monkeypatch.setattr(module, name, sometimes)
    monkeypatch.setattr(disk_wait, "time", SimpleNamespace(sleep=slept.append))
    reporter = Memory()
    assert run(tmp_path / "full", reporter, teachers).status == "completed"
    assert slept == [disk_wait.PAUSE_SECONDS] * 3
    waits = [tick for tick in reporter.ticks if tick["phase"] == NO_SPACE]
    assert len(waits) == 3, "each a sign of life, so that nobody takes the job for stuck"
    assert all(str(tmp_path / "full") in tick["folder"] for tick in waits)
    assert all("MB free" in tick["free"] for tick in waits)
    assert [measured(r) for r in reporter.reports] == [measured(r) for r in whole.reports]


def test_the_samples_and_the_teacher_wait_for_space_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: set[str] = set()
    real = files.write_atomic

    def each_name_once(path: Path, content: Any) -> None:
        if path.name not in refused:
            refused.add(path.name)
            full()
        real(path, content)

    for module in (checksums, arrays, checkpoints, job):
        monkeypatch.setattr(module, "write_atomic", each_name_once)
    monkeypatch.setattr(disk_wait, "time", SimpleNamespace(sleep=lambda seconds: None))
    reporter = Memory()
    assert run(tmp_path / "full", reporter, tmp_path / "teachers").status == "completed"
    assert {"teacher.safetensors", "config.json", f"{320:012d}.npz"} <= refused
    assert sum(tick["phase"] == NO_SPACE for tick in reporter.ticks) == len(refused)


def test_a_stop_while_the_disk_is_full_keeps_the_last_checkpoint(
    tmp_path: Path, teachers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopsWhileItWaits(Memory):
        def stopping(self) -> bool:
            return any(tick["phase"] == NO_SPACE for tick in self.ticks)

    save, first = checkpoints.save_checkpoint, StopsWhileItWaits()
    with monkeypatch.context() as patch:
        patch.setattr(
            loop,
            "save_checkpoint",
            lambda folder, images, what: full() if images > 128 else save(folder, images, what),
        )
        patch.setattr(disk_wait, "time", SimpleNamespace(sleep=lambda seconds: None))
        outcome = run(tmp_path / "trial", first, teachers)
    assert outcome.status == "running"
    assert "space" in outcome.reason
    assert [r.images for r in first.reports] == [128]
    second = Memory()
    assert run(tmp_path / "trial", second, teachers).status == "completed"
    assert second.reports[0] == first.reports[0], "the first rung came from its checkpoint"


def test_other_errors_of_the_disk_are_not_waited_for(
    tmp_path: Path, teachers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(loop, "save_checkpoint", broken)
    with pytest.raises(OSError, match="Input/output"):
        run(tmp_path, Memory(), teachers)


# ---- lost and damaged files -------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_trial_with_damaged_checkpoints_says_so_and_gives_the_same_values(
    tmp_path: Path, teachers: Path, damaged: int
) -> None:
    made = Resources(teachers, WORLD)

    def go(folder: Path, interrupt_after: int | None = None) -> Memory:
        config, reporter = tiny_config(), Memory(interrupt_after=interrupt_after)
        run = Run.start(config, WORLD, made.data(config), made.teacher(config, reporter))
        train(run, folder, reporter, made.evaluator(config, reporter))
        return reporter

    whole = go(tmp_path / "whole")
    folder = tmp_path / "hurt"
    go(folder, interrupt_after=2)  # checkpoints at two steps, at the rung of four, at nine
    go(folder, interrupt_after=7)
    newest = sorted((folder / "checkpoints").glob("*.pt"), reverse=True)
    assert [int(path.stem) // 32 for path in newest] == [9, 4, 2]
    for path in newest[:damaged]:
        path.write_bytes(path.read_bytes()[:-100])
    reporter = go(folder)
    said = reporter.faults
    assert len(said) == damaged
    assert all(path.name in line for path, line in zip(newest, said, strict=False))
    assert [measured(r) for r in reporter.reports] == [measured(r) for r in whole.reports]


def test_a_deleted_trial_folder_begins_again_and_doubles_nothing(
    tmp_path: Path, teachers: Path
) -> None:
    """What the study has judged is answered as before, whatever the second time says."""

    def config(trial: Any) -> dict[str, Any]:
        trial.suggest_float("x", 0.0, 1.0)
        return tiny_config().to_dict()

    ledger = make_ledger(tmp_path, suggest=config, baselines={}, total=1)
    trial = ledger.next()
    assert trial is not None
    heard: list[tuple[int, bool]] = []

    class ToLedger(Stopping):
        def report(self, report: Report) -> bool:
            super().report(report)
            metrics = report.metrics | {"gap@1": report.metrics["teacher_gap@1"]}
            decision = ledger.record(trial.number, replace(report, metrics=metrics))
            heard.append((report.images, decision.go_on))
            return decision.go_on

    def run_again(stop_after: int) -> str:
        reporter = ToLedger(stop_after)
        return job.run_job(trial, 0, 1, "cpu", reporter, cache=str(teachers)).status

    assert run_again(stop_after=1) == "running"
    before = ledger.record_of(trial.number)
    shutil.rmtree(trial.folder)
    assert run_again(stop_after=3) == "completed"
    after = ledger.record_of(trial.number)
    assert heard == [(128, True), (128, True), (320, True)]
    assert after.reports[0] == before.reports[0]
    assert [r.images for r in after.reports] == [128, 320]
    assert after.reports[1].cost["steps"] == 10, "it began from the start"


# ---- memory and divergence --------------------------------------------------------------------

GPU = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 80.00 GiB of which "
    "1.25 GiB is free. Including non-PyTorch memory, this process has 77.00 GiB memory in use."
)


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.OutOfMemoryError(GPU), 0.25),
        (torch.OutOfMemoryError("CUDA error: out of memory"), UNKNOWN),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4"), UNKNOWN),
        (MemoryError(), UNKNOWN),
        (RuntimeError("shape mismatch"), None),
        (ValueError("not enough memory"), None),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_errors_are_a_lack_of_memory(error: Exception, expected: float | None) -> None:
    assert memory_shortage(error) == expected


@pytest.mark.parametrize(
    "allocate", [lambda: torch.empty(2**50), lambda: np.empty(2**50)], ids=["torch", "numpy"]
)
def test_the_hosts_memory_is_what_a_real_request_is_compared_with(
    allocate: Callable[[], object],
) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    memory = this_machine.memory()
    assert memory is not None
    size = 4 if caught.type is RuntimeError else 8
    assert memory_shortage(caught.value) == pytest.approx(size * 2**50 / memory, rel=0.01)


@pytest.mark.parametrize(
    ("share", "device", "capped"),
    [(0.5, "cuda:1", True), (1.0, "cuda:0", False), (2.0, "cuda:0", False), (0.0, "cpu", False)],
)
def test_a_share_of_a_gpu_is_a_share_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, share: float, device: str, capped: bool
) -> None:
    asked: list[tuple[float, str]] = []
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *given: asked.append(given)
    )
    cap_gpu_memory(share, device)
    assert asked == ([(share, device)] if capped else [])


def test_what_every_trial_needs_is_no_trials_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(self: Resources, config: TrialConfig, reporter: Any) -> None:
        raise torch.OutOfMemoryError(GPU)

    monkeypatch.setattr(Resources, "teacher", too_large)
    with pytest.raises(job.Unusable, match=r"teacher.*out of memory") as caught:
        run(tmp_path, Memory(), tmp_path / "teachers")
    assert memory_shortage(caught.value) is None


def test_training_alone_says_in_one_line_that_memory_does_not_suffice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from meanflow_tune.driver import train_command as script

    def too_large(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError(GPU)

    monkeypatch.setattr(job, "run_job", too_large)
    monkeypatch.setattr(script.signal, "signal", lambda *_: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config().to_dict()))
    places = [f"--output={tmp_path / 'out'}", f"--cache={tmp_path / 'cache'}", "--device=cpu"]
    assert script.main([f"--config={tmp_path / 'config.json'}", *places]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "out_of_memory" in line
    assert "20.00 GiB" in line


@pytest.mark.parametrize("step, violation", [(0, 2.0), (4, 1.6), (9, 1.1)])
def test_a_diverged_trial_says_how_much_of_its_budget_it_missed(
    tmp_path: Path, teachers: Path, monkeypatch: pytest.MonkeyPatch, step: int, violation: float
) -> None:
    advance = Run.advance

    def diverging(self: Run, module: Any) -> Any:
        if self.step == step:
            raise Diverged(f"gradient not finite at step {step}")
        return advance(self, module)

    monkeypatch.setattr(Run, "advance", diverging)
    outcome = run(tmp_path, Memory(), teachers)
    assert outcome.status == "diverged"
    assert outcome.violation == pytest.approx(violation)


def test_a_metric_that_is_not_finite_is_a_divergence_not_a_value(
    tmp_path: Path, teachers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock: NaN leaves the trial running for ever, and minus infinity becomes the best."""
    values = iter([0.5, 0.4, -float("inf"), 0.3])
    monkeypatch.setattr(TeacherGap, "compute", lambda self, samples, reference: next(values))
    reporter = Memory()
    outcome = run(tmp_path, reporter, teachers)
    assert outcome.status == "diverged"
    assert "teacher_gap@1 not finite after 320 images" in outcome.reason
    assert outcome.violation == 1.0
    assert [report.images for report in reporter.reports] == [128]


def test_interrupted_is_one_class_everywhere() -> None:
    assert resources.Interrupted is Interrupted
