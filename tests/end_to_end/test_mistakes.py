"""Mistakes of a user: one line that names the setting, and status 2, 4 or 5, before Ray starts.

What needs no process of its own runs in this one, since each takes seconds of imports.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.disks import small_disk
from tests.support.processes.commands import ROOT, SPACE, command, run
from tests.support.processes.in_process import call, without_ray


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def refused(folder: Path, option: str | list[str], status: int, *words: str) -> None:
    """A search with the option ends in one line."""
    options = [option] if isinstance(option, str) else option
    found, lines = call(*command(folder / "runs", *options)[2:])  # without interpreter and script
    assert (found, len(lines)) == (status, 1), (found, lines)
    for word in words:
        assert word in lines[0], lines[0]


def one_line(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert done.returncode == status, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set=budgt.images=1000"], ["budgt.images", "did you mean `budget.images`"]),
        (["--set=budget.images=-5"], ["budget.images", "-5"]),
        (["--set=budget.images"], ["path=value"]),
        (["--set=optimizer.learning_rate=0.1"], ["searches `optimizer.learning_rate`"]),
        (["--set=evaluation.nfe=[4]"], ["teacher_gap@1", "evaluation.nfe"]),
        (["--set=data.held_out=0"], ["data", "held_out"]),
        (["--trials=1"], ["--trials 1", "2 baselines"]),
        (["--trials=0"], ["--trials", "0"]),
        (["--workers-per-trial=3"], ["--workers-per-trial 3", "64"]),
        (["--study=a/b_c"], ["--study", "a/b_c", "only letters"]),
        (
            ['--set=evaluation.metrics=[{"kind": "teacher_gap"}, {"kind": "frechet_features"}]'],
            ["frechet_features", "no labels"],
        ),
        (["--set=teacher.label_dropout=0.1"], ["label_dropout", "data has none"]),
        (["--set=losses.form=average"], ["losses", "mixed_target"]),
        (["--calibrate"], ["--calibrate", "--dry-run"]),
        (["--resume=must", "--study=absent"], ["--resume must", "absent"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_wrong_setting_is_status_2(tmp_path: Path, options: list[str], words: list[str]) -> None:
    refused(tmp_path, options, 2, *words)


def test_a_mistake_ends_a_process_with_its_status(tmp_path: Path) -> None:
    one_line(run([*command(tmp_path / "runs"), "--set=budgt.images=1000"]), 2, "budgt.images")


def test_an_unknown_space_names_the_known(tmp_path: Path) -> None:
    refused(tmp_path, "--space=secnd_order", 2, "secnd_order", "second_order")


def test_an_impossible_range_in_a_space(tmp_path: Path) -> None:
    text = SPACE.read_text().replace("1e-3, 1e-2, log=True", "1e-2, 1e-3, log=True")
    (tmp_path / "space.py").write_text(text)
    refused(
        tmp_path,
        f"--space={tmp_path / 'space.py'}",
        2,
        "optimizer/learning_rate",
        "0.01",
    )


def test_an_objective_that_is_a_loss(tmp_path: Path) -> None:
    text = SPACE.read_text().replace("geometric_mean(teacher_gap@1,teacher_gap@2)", "loss/loss")
    (tmp_path / "space.py").write_text(text)
    refused(tmp_path, f"--space={tmp_path / 'space.py'}", 2, "OBJECTIVE", "loss")


def test_an_unwritable_folder_is_status_5(tmp_path: Path) -> None:
    """A file as its parent; root ignores modes."""
    (tmp_path / "file").write_text("")
    arguments = command(tmp_path / "file" / "runs")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    one_line(done, 5, "--storage", "Not a directory")


@pytest.mark.parametrize(
    ("uri", "status", "words"),
    [
        ("./mlruns", 2, ["./mlruns", "sqlite:///FILE"]),
        ("ftp://me:secret@host/x", 2, ["ftp://***@host/x", "http://HOST:PORT"]),
        ("sqlite:////no/such/folder/mlflow.db", 2, ["/no/such/folder does not exist"]),
        ("http://me:secret@127.0.0.1:9", 5, ["http://***@127.0.0.1:9", "no MLflow server answers"]),
    ],
)
def test_a_tracking_uri_that_cannot_be_used(
    tmp_path: Path, uri: str, status: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    refused(tmp_path, f"--tracking-uri={uri}", status, "--tracking-uri", *words)
    assert "secret" not in capsys.readouterr().out


def test_an_unreachable_cluster_is_status_5(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = run([*command(tmp_path / "runs"), f"--cluster=127.0.0.1:{port}"])
    one_line(done, 5, f"127.0.0.1:{port}", "--cluster")


def test_a_client_address_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "--cluster=ray://127.0.0.1:10001", 2, "ray://127.0.0.1:10001")


def test_a_second_driver_is_status_4_and_names_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny_space"
    hold = f"""
import sys, time
from meanflow_tune.search.store.lease import Lease
with Lease.acquire({str(folder)!r}):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", hold],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        one_line(run(command(tmp_path / "runs")), 4, str(holder.pid), "in use")
    finally:
        holder.communicate(b"", timeout=30)


def test_status_of_nothing(tmp_path: Path) -> None:
    refused(tmp_path, "--status", 2, "there is no study")


def test_a_full_disk_keeps_the_study(tmp_path: Path) -> None:
    """The message names the path; nothing is torn."""
    with small_disk(tmp_path / "small", 1 / 16) as disk:
        (disk / "filler").write_bytes(b"x" * 60_000)
        done = run(command(disk / "runs"))
        assert done.returncode == 5, done.stderr
        assert "space" in done.stderr.lower()
        assert "Traceback" not in done.stderr


def test_a_missing_data_file_is_status_5_and_says_how_to_get_it(tmp_path: Path) -> None:
    stub = tmp_path / "stub" / "sklearn"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("")
    (stub / "model_selection.py").write_text("train_test_split = None")
    (stub / "datasets.py").write_text(
        "def load_digits(**kwargs):\n    raise FileNotFoundError(2, 'No such file', 'digits.csv.gz')"
    )
    arguments = [*command(tmp_path / "runs", trials=16), "--space=second_order"]
    done = run(arguments, PYTHONPATH=str(stub.parent))
    one_line(done, 5, "data kind 'digits'", "digits.csv.gz", "--force-reinstall")
