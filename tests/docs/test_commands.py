"""Every command in a block of a page: its program parses it, and it is run here, elsewhere or by hand."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.core.module_state import rebuilding_generator
from meanflow_tune.data import Digits
from meanflow_tune.driver import driver
from meanflow_tune.driver.cli import search_request, tune_parser
from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import SearchRequest, UserError
from meanflow_tune.records import Job, Outcome, Report
from meanflow_tune.student_files import CONFIG, export_student
from tests.support.docs.pages import CURRENT, Block, blocks, commands, commands_of, prose
from tests.support.docs.programs import PROGRAMS, NotUnderstood, check
from tests.support.drivers.made_up import MadeUp, replace_ray
from tests.support.paths import ROOT
from tests.support.processes.commands import environment
from tests.support.tiny_run import tiny_config

COMMANDS = commands()
EACH = list(dict.fromkeys(map(str, COMMANDS)))
BY_HAND_PAGE = "docs/commands-run-by-hand.md"
STUDY = "runs/second_order"

# Run here as printed, in a folder with a finished study: each with the files that it makes.
RUN = {
    "python scripts/tune.py --status": [],
    "python scripts/tune.py --status --all": [],
    "python scripts/tune.py --dry-run": [],
    "python scripts/sample.py runs/second_order/best.json --nfe 1,2,4 --out samples.png": [
        "samples.png"
    ],
    "python scripts/train.py --config runs/second_order/best.json --output runs/second_order-best": [
        "runs/second_order-best/metrics.json",
        "runs/second_order-best/model",
    ],
    "python scripts/train.py --config runs/second_order/best.json --set budget.images=8000"
    " --output runs/short": ["runs/short/metrics.json", "runs/short/model"],
    "python scripts/report.py --study second_order": [f"{STUDY}/report.html"],
    "meanflow-tune --version": [],
    "meanflow-tune sample runs/second_order/best.json": ["samples.png"],
    "python scripts/tune.py --enqueue wanted.json": [f"{STUDY}/requests"],
    "python scripts/tune.py --enqueue runs/other/best.json": [f"{STUDY}/requests"],
    "python scripts/tune.py --study old --delete-study --yes": [],
    "cp runs/second_order/study.journal copy.journal": ["copy.journal"],
}
# Run by another test as printed.
ELSEWHERE = {
    "python scripts/tune.py --space moons_space.py --dry-run": "test_your_own_parts.py",
    "mkdir -p meanflow_tune/core": "test_derivatives_page.py",
    "touch meanflow_tune/__init__.py": "test_derivatives_page.py",
    "cp -r PATH_TO_THIS_REPOSITORY/meanflow_tune/core/jets PATH_TO_THIS_REPOSITORY/meanflow_tune/core"
    "/types.py meanflow_tune/core/": "test_derivatives_page.py",
}


def by_hand() -> dict[str, str]:
    """Command -> when it was last run, of the page's table."""
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", CURRENT[BY_HAND_PAGE], flags=re.MULTILINE)
    return {command: when for command, when in rows if command != "command"}


def is_listed(command: str, listed: str) -> bool:
    """`...` at the end stands for the rest of a long command."""
    start, dots, _ = listed.partition(" ...")
    return command.startswith(start) if dots else command == listed


def collected(command: str) -> bool:
    return command.startswith("pytest ")


@pytest.mark.parametrize("command", EACH)
def test_its_program_understands_it(command: str) -> None:
    check(shlex.split(command))


@pytest.mark.parametrize(
    "command",
    [
        "python scripts/tune.py --trails 3",
        "python scripts/tune.py --trials 0",
        "python scripts/tuna.py",
        "meanflow-tune sampel runs/best",
        "make tone",
        "make tune ARGS=--trails=3",
        "make tune ARG=--trials=3",
        "make gpu ARGS=--only=step",
        "mlflow uii",
        "mlflow ui --prot 5000",
        "optuna-dashboard --prot 80 x.log",
        "pytest tests/core/test_odes.py",
        "ray start --heads",
        "torchrun --nproc-per-node 2 scripts/train.py --config x",
        "unheard-of",
    ],
)
def test_a_mistake_is_found(command: str) -> None:
    with pytest.raises((NotUnderstood, UserError)):
        check(shlex.split(command))


def test_commands_of_a_block() -> None:
    text = """$ A=1 one --x '' \\
    "b c"   # says
more
$ two && three; four | five -m 'a && b'
"""
    found = [one.words for one in commands_of(Block("page", "console", text))]
    assert found == [
        ("one", "--x", "", "b c"),
        ("two",),
        ("three",),
        ("four",),
        ("five", "-m", "a && b"),
    ]
    assert [str(one) for one in commands_of(Block("page", "sh", "# no\na\nb c\n"))] == ["a", "b c"]


def test_commands_stand_in_blocks() -> None:
    """Not in code by indentation, where nothing would find them."""
    for name, text in CURRENT.items():
        for line in re.findall(r"^ {4}(\S+)", prose(text), flags=re.MULTILINE):
            assert line not in {*PROGRAMS, "cp", "$"}, f"{name}: put this command in a fence"


def test_blocks_of_a_shell_hold_commands() -> None:
    for block in blocks("console", "bash", "sh", "shell"):
        assert list(commands_of(block)), f"{block.page}: no line with a prompt in\n{block.text}"


def test_every_command_is_run_by_a_test_or_listed_with_its_last_run() -> None:
    known = by_hand()
    for one in COMMANDS:
        command = str(one)
        if command in RUN or command in ELSEWHERE or collected(command):
            continue
        assert any(is_listed(command, listed) for listed in known), (
            f"{one.page}: {command}\nadd it to RUN of this test, or to the table of {BY_HAND_PAGE}"
        )


def test_no_list_holds_a_command_that_no_page_has() -> None:
    for listed in (*RUN, *ELSEWHERE, *by_hand()):
        assert any(is_listed(command, listed) for command in EACH), listed
    for command, test in ELSEWHERE.items():
        assert (ROOT / "tests" / "docs" / test).is_file(), command


def test_the_last_run_is_a_day_or_not_yet() -> None:
    for command, when in by_hand().items():
        assert re.fullmatch(r"(20\d\d-[01]\d-[0-3]\d|not yet)", when), f"{command}: {when}"


class MadeUpDigits(MadeUp):
    """Trials with the metrics that the default objective needs."""

    def train(self, stage: Any, job: Job) -> Outcome:
        gap = 1.0 / (1.0 + job.number)
        metrics = {f"teacher_gap@{nfe}": gap for nfe in (1, 2, 4)}
        cost = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "step_ms": 1.0}
        budget = job.config["budget"]
        for index, share in enumerate(budget["rungs"]):
            images = int(share * budget["images"])
            if not stage.on_report(job.number, Report(images, metrics, cost, float(index))):
                return Outcome("pruned", "stopped at a rung")
        return Outcome("completed")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as a reader has it after a search, whose students are tiny."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("scripts", "search_spaces"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        replace_ray(patch, MadeUpDigits())
        for study in ("second_order", "other", "old"):
            request = SearchRequest(study=study, storage=folder / "runs", trials=8)
            assert driver.run(request, command="again", quiet=True) == 0
    installed = folder / "bin" / "meanflow-tune"  # as pip makes it of pyproject.toml
    installed.parent.mkdir()
    code = "from meanflow_tune.driver.console import main\n\nmain()\n"
    installed.write_text(f"#!{sys.executable}\n{code}")
    installed.chmod(0o755)
    (wanted,) = (one for one in blocks("json") if one.page == "docs/handling-a-study.md")
    (folder / "wanted.json").write_text(wanted.text)
    config = tiny_config(data=Digits())
    network = config.network((1, 8, 8), 10, rebuilding_generator())
    best = folder / STUDY / "best.json"
    trial = folder / STUDY / "trials" / "00007"
    export_student(trial / "model", config.to_dict(), network.state_dict(), (1, 8, 8), 10)
    for path in (best, trial / CONFIG):
        path.write_text(json.dumps(config.to_dict()))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_it_runs_as_printed(command: str, reader: Path) -> None:
    python = os.fspath(Path(sys.executable).parent)
    done = subprocess.run(
        command,
        shell=True,
        cwd=reader,
        env=environment(
            PATH=os.pathsep.join([f"{reader}/bin", python, os.environ["PATH"]]),
            PYTHONPATH=f"{reader}{os.pathsep}{ROOT}",
        ),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in RUN[command]:
        assert (reader / name).exists(), name
    assert "--delete-study" not in command or not (reader / "runs/old").exists()


NO_SEARCH = {"--status", "--dashboard", "--delete-study", "--stop-trial", "--enqueue"}


def searches() -> list[str]:
    """Commands that search, from spaces that exist without the reader."""
    words = [shlex.split(command) for command in EACH]
    found = [w[2:] for w in words if w[:2] == ["python", "scripts/tune.py"]]
    made = [w for w in found if not NO_SEARCH & set(w) and "moons_space.py" not in w]
    return [shlex.join(w) for w in made]


@pytest.mark.parametrize("options", searches())
def test_a_search_can_be_planned(options: str, tmp_path: Path) -> None:
    """All that is checked before Ray starts, in an empty storage folder."""
    given = tune_parser().parse_args([*shlex.split(options), "--storage", str(tmp_path)])
    assert make_plan(search_request(given)).space.goal


@pytest.mark.slow
def test_commands_of_pytest_find_tests(tmp_path: Path) -> None:
    """Collected in one process, one after another."""
    each = [list(one.words[1:]) for one in COMMANDS if collected(str(one))]
    assert each
    run = """
import json, sys, pytest
for words in json.loads(sys.argv[1]):
    if pytest.main([*words, "--collect-only", "-q", "-o", f"cache_dir={sys.argv[2]}"]) != 0:
        sys.exit(f"no tests: {words}")
"""
    done = subprocess.run(
        [sys.executable, "-c", run, json.dumps(each), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
