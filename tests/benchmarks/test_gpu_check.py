"""The check of a machine with a GPU: its stages on a processor, limits and report; no time is asserted."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.derivatives.command import settled
from benchmarks.derivatives.cost import cost
from benchmarks.gpu_check import command
from benchmarks.gpu_check.checks import TINY, cases
from benchmarks.gpu_check.command import INTERRUPTED, OK, SOMETHING_FAILED, check
from benchmarks.gpu_check.derivatives import rows_of
from benchmarks.gpu_check.report import Result, markdown
from benchmarks.gpu_check.rows import STAGES, TIME_LIMIT, Bench, Row, Stage
from benchmarks.gpu_check.settings_standin import supply
from benchmarks.gpu_check.stage import work_of
from benchmarks.gpu_check.synchronisations import counted
from benchmarks.gpu_check.training import LOSSES, config_of
from scripts.gpu_check import main
from tests.support.paths import ROOT

BARE = ROOT / "tests" / "support" / "bare_machine"
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CASES = cases()


def quiet(line: str) -> None: ...


@pytest.mark.gpu
@ON_GPU
@pytest.mark.parametrize("name", CASES)
def test_holds_on_a_gpu(name: str) -> None:
    CASES[name]("cuda")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if "compiled" not in name])
def test_holds_on_a_processor(name: str) -> None:
    CASES[name]("cpu")


def test_stages_fit_their_time() -> None:
    assert max(stage.limit for stage in STAGES) <= 180
    assert sum(stage.limit for stage in STAGES) <= TIME_LIMIT <= 720
    assert all(callable(work_of(stage.name)) for stage in STAGES)
    assert len({work_of(stage.name) for stage in STAGES}) == len(STAGES)


# --- the stages, with none of this project's packages ----------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_stage_runs_on_a_bare_machine(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(BARE), str(ROOT)])
    ended = subprocess.run(
        [sys.executable, ROOT / "scripts/gpu_check.py", "--device", "cpu", "--output", tmp_path],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    data = json.loads((tmp_path / "gpu-check.json").read_text())
    failed = [row for stage in data["stages"] for row in stage["rows"] if row.get("failed")]
    assert (ended.returncode, failed) == (OK, []), ended.stderr
    assert [stage["stage"] for stage in data["stages"]] == [stage.name for stage in STAGES]
    assert {stage["outcome"] for stage in data["stages"]} == {"complete"}
    rows = {stage["stage"]: stage["rows"] for stage in data["stages"]}
    assert len(rows["checks"]) == len(CASES)
    assert any("torch.func.jvp" in row["case"] for row in rows["dit"])
    assert all(row["images_per_second"] > 0 for row in rows["steps"])
    assert "pydantic is not installed" in ended.stderr
    table = (tmp_path / "gpu-check.md").read_text()
    assert table.startswith(data["machine"])
    assert all(row["case"] in table for stage in data["stages"] for row in stage["rows"])


def bare(code: str) -> str:
    paths = os.pathsep.join([str(BARE), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


SETTINGS = """
import json
from benchmarks.gpu_check.settings_standin import supply
took = supply()
from benchmarks.gpu_check.checks import TINY
from benchmarks.gpu_check.training import LOSSES, config_of
from meanflow_tune.config import TrialConfig
configs = [config_of(TINY[n], losses, 16) for n in TINY for losses in LOSSES.values()]
assert [TrialConfig.from_dict(c.to_dict()) for c in configs] == configs
print(json.dumps([took, [c.to_dict() for c in configs]]))
"""


@pytest.mark.slow
def test_settings_are_the_same_without_pydantic() -> None:
    took, without = json.loads(bare(SETTINGS))
    assert took
    assert not supply()
    configs = [config_of(of, losses, 16) for of in TINY.values() for losses in LOSSES.values()]
    assert without == [config.to_dict() for config in configs]


REFUSED = """
from benchmarks.gpu_check.settings_standin import supply
supply()
from meanflow_tune.losses import LossMix, TriConsistency
from meanflow_tune.models import DiT
assert TriConsistency(second_part="student").solver is None
for build in (
    lambda: DiT(width=10, heads=4),
    lambda: DiT(depht=3),
    lambda: LossMix.mixture(backward=0.5),
    lambda: setattr(DiT(), "depth", 4),
):
    try:
        print("taken", build())
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_the_stand_in_keeps_the_validators() -> None:
    lines = bare(REFUSED).splitlines()
    assert len(lines) == 4
    assert "`heads` must divide `width`" in lines[0]
    assert "depht: no setting of DiT" in lines[1]
    assert "must sum to 1" in lines[2]
    assert "frozen" in lines[3]


# --- limits, failures, Ctrl-C ----------------------------------------------------------------------

ROW = 'print(\'{"row": {"case": "measured", "milliseconds": 1.5}}\', flush=True)'
PROGRAMS = {
    "good": ROW,
    "hangs": f"import subprocess, sys, time; {ROW}; time.sleep(600)",
    "raises": f"{ROW}; raise RuntimeError('no luck | here')",
    "killed": f"import os; {ROW}; os.kill(os.getpid(), 11)",
    "chatty": f"print('from a library'); {ROW}",
    "unsure": 'print(\'{"row": {"case": "measured", "failed": true, "note": "why"}}\')',
}


def stages(*names: str, limit: float = 60.0) -> list[Stage]:
    return [Stage(name, f"about {name}", limit) for name in names]


def run(folder: Path, *names: str, limit: float = 60.0, **more: Any) -> tuple[int, dict[str, Any]]:
    def by(stage: Stage, device: str) -> list[str]:
        return [sys.executable, "-c", PROGRAMS[stage.name]]

    more.setdefault("show", quiet)
    status = check("cpu", (), folder, ["x"], stages=stages(*names, limit=limit), by=by, **more)
    data = json.loads((folder / "gpu-check.json").read_text())
    return status, {stage["stage"]: stage for stage in data["stages"]}


def test_a_stage_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    status, found = run(tmp_path, "raises", "killed", "chatty", "unsure", "good")
    assert status == SOMETHING_FAILED
    outcomes = [stage["outcome"] for stage in found.values()]
    assert outcomes == ["failed", "failed", "complete", "complete", "complete"]
    assert found["raises"]["error"] == "status 1: RuntimeError: no luck | here"
    assert found["killed"]["error"].startswith("status -11: ")
    for name in ("raises", "killed", "chatty", "good"):
        assert [row["case"] for row in found[name]["rows"]] == ["measured"]
    table = (tmp_path / "gpu-check.md").read_text()
    assert "no luck \\| here" in table
    assert "**FAILED** why" in table
    assert run(tmp_path, "good")[0] == OK


def test_a_stage_ends_by_its_time_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "check_machine", lambda device: "a machine")

    def by(stage: Stage, device: str) -> list[str]:
        return [sys.executable, "-c", PROGRAMS[stage.name]]

    chosen = [*stages("hangs", limit=3.0), *stages("good")]
    status = check("cuda", (), tmp_path, ["x"], stages=chosen, by=by, show=quiet)
    hangs, good = json.loads((tmp_path / "gpu-check.json").read_text())["stages"]
    assert status == SOMETHING_FAILED
    assert (hangs["outcome"], good["outcome"]) == ("out of time", "complete")
    assert [row["case"] for row in hangs["rows"]] == ["measured"]
    assert not running_children()

    check("cuda", (), tmp_path, ["x"], stages=chosen, by=by, show=quiet, time_limit=0.5)
    data = json.loads((tmp_path / "gpu-check.json").read_text())
    assert {stage["outcome"] for stage in data["stages"]} == {"not run"}
    assert "used up" in data["stages"][0]["error"]


def running_children() -> list[str]:
    mine = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in mine]
    return [line for line in lines if "measured" in line]


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    def interrupt_after(line: str) -> None:
        if "hangs" in line:
            threading.Thread(target=later).start()

    def later() -> None:
        time.sleep(2.0)
        os.kill(os.getpid(), signal.SIGINT)

    # A process that a script started in the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status, found = run(tmp_path, "good", "hangs", "chatty", show=interrupt_after)
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == INTERRUPTED
    outcomes = [stage["outcome"] for stage in found.values()]
    assert outcomes == ["complete", "interrupted", "not run"]
    assert [row["case"] for row in found["good"]["rows"]] == ["measured"]
    assert not running_children()


# --- the command -----------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gpu_check.py: ")
    assert "--device cpu" in line
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    assert main(["--device", "cpu", "--output", str(tmp_path)]) == 2
    assert "torch 2.11 or newer is needed, but this is 2.10.0" in capsys.readouterr().err


def test_an_unknown_stage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--only", "stepps"])
    assert ended.value.code == 2
    assert "synchronisations" in capsys.readouterr().err


# --- what is measured ------------------------------------------------------------------------------


def test_rows_of_ours_stand_next_to_those_of_torch() -> None:
    with settled(1):
        found = cost(
            "mlp",
            TINY["mlp"],
            device="cpu",
            precision="float32",
            size=8,
            repetitions=1,
            compiled=False,
            progress=quiet,
        )
    rows = {row.case: row for row in rows_of(found, "float32")}
    assert not any("compiled" in case for case in rows)
    ours, nested = rows["all four: ours"], rows["all four: nested torch.func.jvp WRONG"]
    assert ours.forwards is not None
    assert nested.forwards is not None
    assert ours.against_jvp == pytest.approx(ours.forwards / nested.forwards)
    assert ours.error is not None
    assert ours.error < 1e-4
    assert rows["forward"].against_jvp is None
    assert not any(row.failed for row in rows.values())


def waits(work: Callable[[], Any]) -> int:
    with counted("cpu") as found:
        work()
    return found.total()


def test_waits_are_counted_where_they_are() -> None:
    x = torch.arange(6.0)
    assert waits(lambda: x.exp().sum()) == 0
    assert waits(lambda: torch.where(x > 2, x, 0)) == 0
    assert waits(lambda: x[torch.tensor([1, 2])]) == 0
    assert waits(lambda: x[x > 2]) == 1
    assert waits(lambda: (x > 2).nonzero()) == 1
    assert waits(lambda: float(x.sum())) == 1
    assert waits(lambda: bool((x > 2).any())) == 1
    with counted("cpu") as found:
        for _ in range(3):
            x.sum().item()
    ((place, count),) = found.items()
    assert count == 3
    assert place.startswith("benchmarks/test_gpu_check.py:")


def test_steps_are_of_the_orders_that_they_are_named_after() -> None:
    assert LOSSES["first-order"].active.keys() == {"backward"}
    assert "d_t_d_s" in LOSSES["second-order"].needs
    assert LOSSES["second-order"].weights(0.0)["second_order"] == pytest.approx(0.1)


def test_a_measurement_that_raises_is_a_row() -> None:
    found: list[Row] = []
    bench = Bench("cpu", found.append, quiet)

    def work() -> None:
        raise RuntimeError("first line\nsecond")

    bench.attempt(Row("any", "net", "float32"), work)
    assert found == [Row("any", "net", "float32", note="RuntimeError: first line", failed=True)]
    assert Row.from_dict(found[0].to_dict()) == found[0]
    assert "tf32" in Bench("cuda", found.append, quiet).precisions
    table = markdown([Result(STAGES[0], "complete", 3.0, rows=found)])
    widths = {line.count(" | ") for line in table.splitlines()}
    assert len(widths) == 1
