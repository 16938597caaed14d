"""The command `doctor` on this machine; on a cluster: tests/end_to_end/test_cluster.py."""

import errno
import os
import re
from pathlib import Path

import pytest

from meanflow_tune.cluster.doctor import examination
from meanflow_tune.driver.doctor.doctor_command import main
from tests.support.servers.postgresql import PostgresServer

SPACE = ("--space", "eight_gaussians")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of tests are long, and would be broken at 80 columns."""
    monkeypatch.setenv("COLUMNS", "400")


def test_a_good_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main([*SPACE, "--storage", str(tmp_path)])
    shown = capsys.readouterr().out
    assert status == 0, shown
    for check in ("search space", "storage", "tracking server", "versions", "GPU", "data set"):
        assert re.search(rf"^ok +{check} ", shown, re.MULTILINE), shown
    assert "0 faults" in shown
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--storage", "/proc/none"], r"FAULT +storage +.*/proc/none: cannot be written"),
        (["--tracking-uri", "http://127.0.0.1:9"], r"FAULT +tracking server +.*127\.0\.0\.1:9"),
        (["--space", "no_such_space"], r"FAULT +search space +.*no_such_space"),
        (["--cluster", "127.0.0.1:9"], r"FAULT +cluster +.*127\.0\.0\.1:9"),
        (["--study-storage", "nodb://x/y"], r"FAULT +database"),
    ],
)
def test_a_fault_is_named_and_the_rest_still_checked(
    options: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*SPACE, "--storage", str(tmp_path), *options]
    status = main(given)
    shown = capsys.readouterr().out
    assert status == 5, shown
    assert re.search(line, " ".join(shown.split()).replace("FAULT", "\nFAULT")), shown
    assert "1 fault," in shown


def test_the_databases_of_study_and_mlflow(
    postgres: PostgresServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, tracking = postgres.new_url(), postgres.new_url()
    given = [*SPACE, "--storage", str(tmp_path), "--study-storage", study, "--tracking-uri"]
    assert main([*given, tracking]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"ok tracking server postgresql://\*\*\*@\S+ answers", shown), shown
    assert "ok database answers" in shown
    assert main([*given, study]) == 5, "one database for both"
    shown = " ".join(capsys.readouterr().out.split())
    assert "FAULT database --study-storage and the tracking URI name one database" in shown


def test_a_storage_at_a_url(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEANFLOW_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    url, database = f"file://{tmp_path}/store", "postgresql://127.0.0.1:9/x"
    for options, line in (
        ([], r"FAULT +storage +--storage file://\S+: a journal file needs a file system"),
        (
            ["--study-storage", database, "--tracking-uri", database],
            r"ok +storage +file://\S+ can be written from here",
        ),
    ):
        assert main([*SPACE, "--storage", url, *options]) == 5
        shown = " ".join(capsys.readouterr().out.split())
        assert re.search(line, shown), shown
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "store"}


def test_a_disk_that_fails_meanwhile_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(examination, "describe_host", full)
    assert main([*SPACE, "--storage", str(tmp_path)]) == 5
    assert re.search(r"FAULT +this machine +.*No space left", capsys.readouterr().out)


def test_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workers-per-trial", "0"]) == 2
    assert "--workers-per-trial: " in capsys.readouterr().err
