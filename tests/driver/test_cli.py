"""The command line is a promise: options, defaults and choices change here or not at all."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.driver.cli import train_parser, tune_parser

# Option, default, choices. Environment variables are unset.
OPTIONS = [
    ("--space", "second_order", None),
    ("--study", None, None),
    ("--trials", None, None),
    ("--set", [], None),
    ("--time-budget", None, None),
    ("--seed", 0, None),
    ("--sampler", "tpe", ["tpe", "gp", "cmaes", "nsgaii", "qmc", "random"]),
    ("--startup-trials", 8, None),
    ("--objectives", None, None),
    ("--scheduler", "asha", ["asha", "median", "none"]),
    ("--reduction", 4.0, None),
    ("--grace", 0, None),
    ("--brackets", 1, None),
    ("--no-promotion", True, None),
    ("--protect", 0.05, None),
    ("--max-failures", 3, None),
    ("--repeats", 0, None),
    ("--confirm", 1, None),
    ("--confirm-seeds", 2, None),
    ("--cluster", None, None),
    ("--workers-per-trial", 1, None),
    ("--max-concurrent", None, None),
    ("--cpus-per-worker", 1.0, None),
    ("--gpus-per-worker", None, None),
    ("--storage", "runs", None),
    ("--study-storage", None, None),
    ("--tracking-uri", None, None),
    ("--resume", "auto", ["auto", "must", "fresh"]),
    ("--accept-changes", False, None),
    ("--import-study", None, None),
    ("--status", False, None),
    ("--smoke-test", False, None),
    ("--dry-run", False, None),
    ("--calibrate", False, None),
    ("--verbose", False, None),
    ("--quiet", False, None),
]

TRAIN_OPTIONS = [
    ("--config", None, None),
    ("--output", None, None),
    ("--set", [], None),
    ("--cache", Path("runs/teachers"), None),
    ("--device", "auto", None),
    ("--threads", 1, None),
]


def options(parser: argparse.ArgumentParser) -> list[tuple[str, Any, Any]]:
    return [
        (action.option_strings[-1], action.default, action.choices)
        for action in parser._actions
        if action.dest != "help"
    ]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPTUNA_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def test_the_options() -> None:
    assert options(tune_parser()) == OPTIONS
    assert options(train_parser()) == TRAIN_OPTIONS


def test_threads_is_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_parser().parse_args(["--config", "c", "--output", "o", "--threads", "0"])
    assert "--threads" in capsys.readouterr().err


def test_environment_variables_of_the_ecosystem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///study.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    arguments = tune_parser().parse_args([])
    assert arguments.study_storage == "sqlite:///study.db"
    assert arguments.tracking_uri == "http://127.0.0.1:5000"
    arguments = tune_parser().parse_args(["--tracking-uri", "sqlite:///other.db"])
    assert arguments.tracking_uri == "sqlite:///other.db"


@pytest.mark.parametrize(
    ("words", "address"), [([], None), (["--cluster"], ""), (["--cluster", "h:1"], "h:1")]
)
def test_cluster_says_where(words: list[str], address: str | None) -> None:
    assert tune_parser().parse_args(words).cluster == address


@pytest.mark.parametrize("words", [["--trial", "3"], ["--unknown"], ["--sampler", "best"]])
def test_abbreviations_and_unknown_options_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tune_parser().parse_args(words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("2h", 7200), ("1d12h", 129_600), ("1.5h", 5400)],
)
def test_times_with_units(text: str, seconds: float) -> None:
    assert tune_parser().parse_args(["--time-budget", text]).time_budget == seconds


@pytest.mark.parametrize("text", ["2", "h", "2 h", "-2h", "2hours"])
def test_times_without_units_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune_parser().parse_args([f"--time-budget={text}"])
    assert "2h" in capsys.readouterr().err
