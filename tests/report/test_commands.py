"""Commands for a user to copy: absolute, quoted, and the same search from any folder."""

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.driver.cli import search_request, tune_parser
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.report.commands import (
    called_command,
    extended,
    mlflow_command,
    search_command,
    train_command,
    with_remedy,
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


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPTUNA_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def resumed(given: list[str], **options: Any) -> list[str]:
    """The words after `tune.py` of the command that resumes this one."""
    command = search_command(["/x/tune.py", *given], request_of(given), **options)
    return shlex.split(command)[2:]


@pytest.mark.usefixtures("unset")
@pytest.mark.parametrize(
    "once", [["--resume", "fresh"], ["--resume=fresh"], ["--accept-changes"]], ids=" ".join
)
def test_what_is_done_once_is_not_repeated(once: list[str]) -> None:
    kept = ["--study", "fresh", "--storage", "/r", "--resume", "must", "--trials", "9", "-v"]
    if "--resume" in once[0]:
        kept = [word for word in kept if word not in ("--resume", "must")]
    assert resumed([*kept, *once]) == kept
    assert resumed([*once, *kept]) == kept
    assert resumed([*kept, *once], begun=False) == [*kept, *once], "it has not been done yet"


@pytest.mark.usefixtures("unset")
def test_a_takeover_is_not_repeated() -> None:
    request = request_of(["--storage", "/r"])
    words = search_command(["/x/tune.py", "--take-over", "--storage", "/r"], request)
    assert shlex.split(words)[2:] == ["--storage", "/r"]


@pytest.mark.usefixtures("unset")
def test_what_came_from_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://me:secret@host/studies")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    words = resumed(["--storage", "/r", "--cluster"])
    monkeypatch.undo()
    asked = request_of(words)
    assert asked.tracking_uri == "http://host:5000"
    assert asked.cluster == "head:6379"
    assert words[words.index("--study-storage") + 1] == "postgresql://***@host/studies"
    assert resumed(["--storage", "/r", "--cluster", "other:1"])[-1] == "other:1"


@pytest.mark.usefixtures("unset")
@pytest.mark.parametrize("joined", [True, False])
def test_a_hidden_password_can_be_filled_in_or_set(joined: bool) -> None:
    url, server = "postgresql://me:pa/ss@host/studies", "http://me:secret@host:5000"
    given = ["--storage", "/r"]
    for option, value in (("--study-storage", url), ("--tracking-uri", server)):
        given += [f"{option}={value}"] if joined else [option, value]
    command = search_command(["/x/tune.py", *given], request_of(given))
    assert "secret" not in command
    assert "ss@host" not in command
    filled = command.replace("***", "me:secret")
    asked = request_of(shlex.split(filled)[2:])
    assert asked.tracking_uri == server
    assert asked.study_storage == "postgresql://me:secret@host/studies"
    shown, remedy = with_remedy(command).split("\n")
    assert shown == command
    assert remedy == (
        "  (put the hidden part in the place of ***, or set OPTUNA_STORAGE instead of --study-storage and "
        "MLFLOW_TRACKING_URI instead of --tracking-uri)"
    )
    plain = search_command(["/x/tune.py"], request_of(["--storage", "/r"]))
    assert with_remedy(plain) == plain


@pytest.mark.usefixtures("unset")
def test_a_password_in_the_command_at_the_end_is_hidden() -> None:
    given = ["--storage", "/r", "--on-end", "curl 'https://hooks/x?token=abc' -d \"$S\""]
    command = search_command(["/x/tune.py", *given], request_of(given))
    assert "abc" not in command
    assert with_remedy(command).endswith("  (put the hidden part in the place of ***)")
