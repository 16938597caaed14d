"""The installed command `meanflow-tune`: its entry point, its help, and the scripts' commands."""

import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from meanflow_tune import __version__
from meanflow_tune.driver import console
from meanflow_tune.driver.cli import sample_parser, train_parser, tune_parser
from meanflow_tune.driver.doctor.doctor_command import doctor_parser
from meanflow_tune.driver.report_command import report_parser
from meanflow_tune.driver.train_command import main as train
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.report import summary
from tests.support.paths import ROOT
from tests.support.tiny_run import tiny_config

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def called(*words: str) -> subprocess.CompletedProcess[str]:
    """As the installed command calls it."""
    code = "import sys; from meanflow_tune.driver.console import main; sys.argv[0] = '/bin/meanflow-tune'"
    return subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit(main())", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_the_entry_point_and_the_version_are_those_of_the_project() -> None:
    assert PROJECT["scripts"] == {"meanflow-tune": f"{console.__name__}:{console.main.__name__}"}
    assert PROJECT["version"] == __version__
    assert called("--version").stdout == f"meanflow-tune {__version__}\n"


@pytest.mark.parametrize("name", console.COMMANDS)
def test_a_command_has_the_help_of_its_script(name: str) -> None:
    done = called(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: meanflow-tune {name} ")
    assert "exit status: 0" in done.stdout
    assert "scripts/" not in done.stdout
    examples = re.findall(rf"meanflow-tune {name} ", done.stdout)
    assert len(examples) > 3
    script = {
        "tune": tune_parser,
        "train": train_parser,
        "sample": sample_parser,
        "report": report_parser,
        "doctor": doctor_parser,
    }[name]()
    assert f"scripts/{name}.py" in (script.epilog or "")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        console.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name, what in console.COMMANDS.items():
        assert re.search(rf"^ +{name} +{what[:20]}", shown, flags=re.MULTILINE)


@pytest.mark.parametrize("words", [[], ["paint"], ["--verbose"]])
def test_what_is_no_command_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        console.main(words)
    assert ended.value.code == 2
    assert "meanflow-tune: error:" in capsys.readouterr().err


def test_mistakes_are_told_under_the_commands_name(tmp_path: Path) -> None:
    done = called("tune", "--calibrate", f"--storage={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("meanflow-tune tune: --calibrate belongs to --dry-run")
    done = called("train", "--config=nowhere.json", f"--output={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == "meanflow-tune train: --config nowhere.json: No such file or directory.\n"


def test_training_refuses_an_unknown_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(tiny_config().model_dump_json())
    places = [f"--output={tmp_path / 'out'}", f"--cache={tmp_path / 'cache'}", "--device=abacus"]
    assert train([f"--config={tmp_path / 'config.json'}", *places]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: --device abacus: cannot be used")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/venv/bin/meanflow-tune tune --trials 3", "/venv/bin/meanflow-tune train --config"),
        ("python scripts/tune.py", "scripts/train.py --config"),
    ],
)
def test_next_steps_are_given_in_the_words_of_the_call(
    command: str, expected: str, tmp_path: Path
) -> None:
    text = io.StringIO()
    request = SearchRequest(study="s", storage=tmp_path)
    summary.show_places(Console(file=text), request, [tmp_path / "s" / "best.json"], command)
    assert expected in text.getvalue()
