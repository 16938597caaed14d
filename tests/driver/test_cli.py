"""The command lines: options, defaults and choices are frozen here."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic_core import PydanticUndefined

from meanflow_tune.driver.cli import (
    DELETION,
    FIELDS,
    MODES,
    check_modes,
    sample_parser,
    search_request,
    train_parser,
    tune_parser,
)
from meanflow_tune.plan.request import (
    SMOKE_SETTINGS,
    SMOKE_TRIALS,
    STORAGE,
    SearchRequest,
    UserError,
)
from meanflow_tune.search.samplers.factory import SAMPLER_KINDS
from tests.support.paths import ROOT

# Option, default, choices.
OPTIONS = [
    ("--space", "second_order", None),
    ("--study", PydanticUndefined, None),
    ("--trials", 32, None),
    ("--set", (), None),
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
    ("--no-question", True, None),
    ("--cluster", None, None),
    ("--wait-for-cluster", None, None),
    ("--require-token", False, None),
    ("--workers-per-trial", 1, None),
    ("--max-concurrent", None, None),
    ("--cpus-per-worker", 1.0, None),
    ("--gpus-per-worker", None, None),
    ("--storage", Path("runs"), None),
    ("--study-storage", None, None),
    ("--tracking-uri", None, None),
    ("--keep-models", "all", None),
    ("--keep-checkpoints", "all", None),
    ("--keep-samples", "all", None),
    ("--system-metrics", False, None),
    ("--resume", "auto", ["auto", "must", "fresh"]),
    ("--take-over", False, None),
    ("--on-end", None, None),
    ("--accept-changes", False, None),
    ("--import-study", None, None),
    ("--status", False, None),
    ("--all", False, None),
    ("--smoke-test", False, None),
    ("--dry-run", False, None),
    ("--calibrate", False, None),
    ("--verbose", False, None),
    ("--quiet", False, None),
    ("--stop-trial", [], None),
    ("--enqueue", None, None),
    ("--dashboard", None, None),
    ("--delete-study", False, None),
    ("--yes", False, None),
    ("--keep-mlflow", False, None),
]

TRAIN_OPTIONS = [
    ("--config", None, None),
    ("--output", None, None),
    ("--set", [], None),
    ("--cache", Path("runs/teachers"), None),
    ("--device", "auto", None),
    ("--threads", 1, None),
]

SAMPLE_OPTIONS = [
    ("--nfe", [1, 2, 4], None),
    ("--n", 64, None),
    ("--labels", None, None),
    ("--seed", 0, None),
    ("--guidance", None, None),
    ("--out", Path("samples.png"), None),
    ("--device", "auto", None),
    ("--tracking-uri", None, None),
]


def options(parser: argparse.ArgumentParser) -> list[tuple[str, Any, Any]]:
    """Each with its default, for tune.py that of the request's field, and its choices."""
    return [
        (
            action.option_strings[-1],
            FIELDS[action.dest].default if action.default is argparse.SUPPRESS else action.default,
            action.choices,
        )
        for action in parser._actions
        if action.dest not in ("help", "source")
    ]


def parsed(*words: str) -> SearchRequest:
    return search_request(tune_parser().parse_args(words))


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPTUNA_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def test_the_options() -> None:
    assert options(tune_parser()) == OPTIONS
    assert options(train_parser()) == TRAIN_OPTIONS
    assert options(sample_parser()) == SAMPLE_OPTIONS


def test_every_sampler_can_be_chosen() -> None:
    """Stated twice, since a parser must not import Optuna."""
    assert get_args(FIELDS["sampler"].annotation) == SAMPLER_KINDS


# How `--help` shows a default that is not a plain value.
IN_WORDS = {
    "study": "the space's name",
    "promotion": "yes",
    "question": "yes",
    "max_concurrent": "what the processors allow",
    "gpus_per_worker": "1 where the cluster has enough, else 0",
    "study_storage": "OPTUNA_STORAGE, else a journal file in the study's folder",
    "tracking_uri": "MLFLOW_TRACKING_URI, else DIR/mlflow.db",
}
# Nothing happens without them.
WITHOUT = {
    "settings",
    "time_budget",
    "objectives",
    "cluster",
    "wait_for_cluster",
    "require_token",
    "accept_changes",
    "import_study",
    "on_end",
    "system_metrics",
    "take_over",
}


@pytest.mark.parametrize("name", FIELDS)
def test_help_shows_every_field_with_its_default(name: str) -> None:
    parser = tune_parser()
    (action,) = (each for each in parser._actions if each.dest == name)
    assert action.default is argparse.SUPPRESS, "a second default"
    description = FIELDS[name].description
    assert description
    shown = " ".join(parser.format_help().split())
    expected = IN_WORDS.get(name, str(FIELDS[name].default))
    if name in WITHOUT:
        assert FIELDS[name].default in (None, (), False)
        assert "default" not in description
        assert description in shown
    else:
        words = description.removesuffix(f" (default: {expected})")
        assert f"{words} (default: {expected})" in shown


def test_what_is_not_given_is_left_to_the_request() -> None:
    assert vars(tune_parser().parse_args([])).keys() == {
        name.removeprefix("--").replace("-", "_")
        for name in (*MODES, "--stop-trial", "--enqueue", "--dashboard", *DELETION)
    }
    assert parsed() == SearchRequest(study="second_order", storage=STORAGE.absolute())


def test_a_smoke_test_is_a_small_search_of_its_own() -> None:
    request = parsed("--smoke-test", "--set", "seed=3")
    assert (request.study, request.trials) == ("second_order-smoke", SMOKE_TRIALS)
    assert request.settings == (*SMOKE_SETTINGS, "seed=3")
    assert parsed("--smoke-test", "--trials", "9").trials == 9


def test_the_name_of_a_study_is_that_of_its_space() -> None:
    assert parsed("--space", "elsewhere/mine.py").study == "mine"
    assert parsed("--space", "mine", "--study", "yours").study == "yours"


HEAVY = {"torch", "ray", "mlflow", "optuna", "numpy", "pandas", "sklearn"}


@pytest.mark.parametrize(
    ("script", "commands"),
    [
        ("tune", [[]]),
        ("train", [[]]),
        ("sample", [[]]),
        ("benchmark", [[], ["slots"], ["search"], ["derivatives"], ["replay"]]),
    ],
)
def test_help_imports_nothing_heavy(script: str, commands: list[list[str]]) -> None:
    """It must be quick, and torch alone takes seconds."""
    code = f"""
import sys
from scripts.{script} import main
for words in {commands}:
    try:
        main([*words, "--help"])
    except SystemExit as ended:
        assert ended.code == 0
print(sorted({HEAVY} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.count("examples:") == len(commands)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_driver_does_not_wait_for_what_it_may_not_need() -> None:
    """scikit-learn alone is a second of imports, matplotlib another."""
    code = """
import sys
import meanflow_tune.driver.driver
print(sorted({"sklearn", "scipy", "matplotlib", "PIL", "mlflow", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def test_threads_is_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_parser().parse_args(["--config", "c", "--output", "o", "--threads", "0"])
    assert "--threads" in capsys.readouterr().err


def test_environment_variables_of_the_ecosystem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///study.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert parsed("--storage", "/runs").study_storage == "sqlite:////runs/study.db"
    assert parsed().tracking_uri == "http://127.0.0.1:5000"
    assert parsed("--tracking-uri", "sqlite:///other.db").tracking_uri == "sqlite:///other.db"


@pytest.mark.parametrize(
    ("words", "address"), [([], None), (["--cluster"], ""), (["--cluster", "h:1"], "h:1")]
)
def test_cluster_says_where(words: list[str], address: str | None) -> None:
    assert parsed(*words).cluster == address


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--workers-per-trial", "2", "--gpus-per-worker", "0.5"],
            "--gpus-per-worker: NCCL refuses two ranks of a trial on one GPU; give --gpus-per-worker 1, or "
            "--workers-per-trial 1 (got 0.5)",
        ),
        (
            ["--gpus-per-worker", "1.5"],
            "--gpus-per-worker: must be a whole number, or below 1 for a share of one GPU (got 1.5)",
        ),
    ],
)
def test_shares_of_gpus_that_no_trial_can_use(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parsed(*words)
    assert str(caught.value) == message


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
    assert parsed("--time-budget", text).time_budget == seconds


@pytest.mark.parametrize("text", ["2", "h", "2 h", "-2h", "2hours"])
def test_times_without_units_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune_parser().parse_args([f"--time-budget={text}"])
    assert "2h" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--status", "--delete-study"], "--status and --delete-study cannot be given together"),
        (["--stop-trial", "1", "--enqueue", "f.json"], "cannot be given together"),
        (["--calibrate"], "--calibrate belongs to --dry-run"),
        (["--yes"], "--yes belongs to --delete-study"),
        (["--keep-mlflow", "--status"], "--keep-mlflow belongs to --delete-study"),
        (["--on-end", "true", "--stop-trial", "0"], "--on-end belongs to a search"),
    ],
)
def test_modes_that_contradict_each_other_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_modes(tune_parser().parse_args(words))


def test_several_trials_can_be_stopped() -> None:
    words = ["--stop-trial", "0", "--stop-trial", "7"]
    arguments = tune_parser().parse_args(words)
    check_modes(arguments)
    assert arguments.stop_trial == [0, 7]


@pytest.mark.parametrize("number", ["-1", "x", "1.5", ""])
def test_a_trial_is_a_number(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune_parser().parse_args([f"--stop-trial={number}"])
    assert "--stop-trial" in capsys.readouterr().err
