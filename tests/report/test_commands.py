"""Commands for a user to copy: absolute, quoted, and the same search from any folder."""

import shlex
import sys
from pathlib import Path

import pytest

from meanflow_tune.driver.cli import search_request, tune_parser
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.report.commands import (
    called_command,
    extended,
    mlflow_command,
    search_command,
    train_command,
)


def request_of(words: list[str]) -> SearchRequest:
    return search_request(tune_parser().parse_args(words))


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--storage", "my runs", "--study", "s", "--set", "data.kind=digits"],
        ["--storage=a;b", "--space=own space.py", "--import-study", "old/s", "--study=s", "-v"],
        ["--study-storage", "sqlite:///db.sqlite", "--tracking-uri", "http://host:1", "--cluster"],
    ],
)
def test_the_command_is_the_same_search_from_another_folder(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = request_of(given)
    command = search_command(["scripts/tune.py", *given], asked)
    monkeypatch.chdir("/")
    python, script, *words = shlex.split(command)
    assert (python, script) == (sys.executable, str(tmp_path / "scripts" / "tune.py"))
    again = request_of(words)
    different = {"space", "import_study"}
    assert again.model_dump(exclude=different) == asked.model_dump(exclude=different)
    if "--import-study" in given:
        assert again.import_study == str(tmp_path / "old" / "s")
        assert again.space == str(tmp_path / "own space.py")
    if "--study-storage" in given:
        assert again.study_storage == f"sqlite:///{tmp_path / 'runs' / 'db.sqlite'}"


def test_the_installed_command_keeps_its_name() -> None:
    request = request_of(["--storage", "/my runs"])
    called = ["/venv/bin/meanflow-tune", "tune", "--storage", "/my runs", "--trials", "4"]
    command = search_command(called, request)
    assert command == "/venv/bin/meanflow-tune tune --storage '/my runs' --trials 4"
    assert extended(command, 9).endswith("tune --storage '/my runs' --trials 9")
    assert train_command(command, "--config", Path("/a b.json")) == (
        "/venv/bin/meanflow-tune train --config '/a b.json'"
    )


def test_a_script_trains_by_the_script_next_to_it() -> None:
    command = shlex.join(["/py thon", "/my repo/scripts/tune.py", "--trials=4"])
    assert train_command(command) == "'/py thon' '/my repo/scripts/train.py'"
    assert shlex.split(extended(command, 9))[2:] == ["--trials", "9"]


def test_mlflow_is_that_of_this_environment() -> None:
    words = shlex.split(mlflow_command("sqlite:////my runs/mlflow.db"))
    assert words[0] == str(Path(sys.executable).with_name("mlflow"))
    assert "sqlite:////my runs/mlflow.db" in words


def test_training_resumes_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["scripts/train.py", "--config", "a b.json", "--output=out", "--set", "seed=1"]
    assert shlex.split(called_command(given)) == [
        sys.executable,
        str(tmp_path / "scripts" / "train.py"),
        "--config",
        str(tmp_path / "a b.json"),
        f"--output={tmp_path / 'out'}",
        "--set",
        "seed=1",
    ]
