"""Nonsense in a space, an option or a file of a study: one line with the cause and the remedy.

Each case is a line of a table, and runs `main` in this process, up to the moment when Ray would start.
"""

import re
import shutil
from pathlib import Path

import pytest

from tests.support.paths import TINY_SPACE
from tests.support.processes.in_process import call, without_ray

TINY = TINY_SPACE.read_text(encoding="utf-8")
RETURN = "    return TrialConfig(\n"
SIGN = "    sign = trial.suggest_categorical("
REFERENCE = 'REFERENCE = ("backward", "backward_fast")'


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def refused(status: int, message: str, *arguments: str | Path) -> None:
    """The command ends with this status and one line, in which the pattern is found."""
    found, lines = call(*arguments)
    assert (found, len(lines)) == (status, 1), (found, lines[:5])
    assert re.search(message, lines[0]), lines[0][:600]
    assert len(lines[0]) < 2000, f"{len(lines[0])} characters"


def at_top(line: str) -> str:
    return TINY.replace("GOAL =", f"{line}\nGOAL =", 1)


def in_suggest(line: str) -> str:
    return TINY.replace(RETURN, f"    {line}\n{RETURN}", 1)


def asks(call_of_trial: str, value: str) -> str:
    """The space with one more parameter `p`, which the baselines have at a value."""
    text = TINY.replace(SIGN, f"    trial.{call_of_trial}\n{SIGN}", 1)
    text = text.replace("from typing import Any", "import numpy as np\nfrom typing import Any", 1)
    return text.replace("= {", f'= {{"p": {value}, ', 1)


def declares(line: str) -> str:
    return TINY.replace(REFERENCE, line, 1)


# name -> the space's file, and what the line says.
SPACES: dict[str, tuple[str | bytes, str]] = {
    "exit": (at_top("raise SystemExit(3)"), r"space.py: it calls sys.exit\(3\)$"),
    "exit of nothing": (at_top("import sys; sys.exit()"), r"it calls sys.exit\(\)$"),
    "generator exit": (at_top("raise GeneratorExit"), "GeneratorExit"),
    "own base exception": (at_top("class X(BaseException): ...\nraise X('boo')"), "X: boo"),
    "recursion": (at_top("def f(): f()\nf()"), "RecursionError: maximum recursion"),
    "syntax": (at_top("def ("), r"SyntaxError: invalid syntax \(space.py, line 14\)"),
    "indentation": (at_top("  x = 1"), "IndentationError: unexpected indent"),
    "import": (at_top("from os import nothing"), "ImportError: cannot import name 'nothing'"),
    "missing module": (at_top("import no_such_module"), "No module named 'no_such_module'"),
    "missing file": (at_top("open('/no/such')"), "FileNotFoundError: .*/no/such"),
    "memory": (at_top("raise MemoryError"), "MemoryError"),
    "NUL": (b"GOAL = 'x'\x00\n", "SyntaxError: source code string cannot contain null bytes"),
    "no UTF-8": (b"GOAL = '\xff\xfe'\n", "SyntaxError: .*'utf-8' codec can't decode"),
    "UTF-16": (TINY.encode("utf-16"), "SyntaxError"),
    "unknown encoding": (b"# -*- coding: nosuch -*-\n", "SyntaxError: unknown encoding: nosuch"),
    "empty": ("", "lacks GOAL, OBJECTIVE, BASELINES, suggest"),
    "exit in suggest": (in_suggest("raise SystemExit(3)"), r"'backward': it calls sys.exit\(3\)"),
    "recursion in suggest": (in_suggest("suggest(trial)"), "RecursionError: maximum recursion"),
    "None": (in_suggest("return None"), "suggest must return a TrialConfig, but returns None"),
    "text": (in_suggest("return 'x'"), "TrialConfig, but returns a value of type str"),
    "list": (in_suggest("return [1]"), "TrialConfig, but returns a value of type list"),
    "dict": (in_suggest("return {'a': 1}"), "TrialConfig, but returns a value of type dict"),
    "class": (in_suggest("return TrialConfig"), "but returns the class TrialConfig itself"),
    "generator": (
        TINY.replace(RETURN, "    yield TrialConfig(\n"),
        "returns a generator; write it without `yield`",
    ),
    "async": (
        TINY.replace("def suggest", "async def suggest"),
        "returns a coroutine; write it without `async`",
    ),
    "no function": (TINY + "\nsuggest = None\n", "suggest of search space .* must be a function"),
    "two arguments": (
        TINY.replace("(trial: Trial)", "(trial, more)"),
        "TypeError: suggest.. missing 1 required positional argument: 'more'",
    ),
    "chance": (
        at_top("import random").replace("rate=rate", "rate=rate * random.random()"),
        "different configurations for the same parameters: `optimizer.learning_rate` differs",
    ),
    "counter": (
        at_top("SEEN = []").replace(RETURN, f"    SEEN.append(1)\n    rate /= len(SEEN)\n{RETURN}"),
        "let it depend on its trial's parameters alone, not on chance, time or earlier calls",
    ),
    "pruned": (in_suggest("import optuna; raise optuna.TrialPruned"), "'backward': TrialPruned"),
    "report": (in_suggest("trial.report(1.0, 0)"), "suggest must not call trial.report"),
    "attribute": (in_suggest("trial.set_user_attr('x', object())"), "set_user_attr.*JSON data"),
    "NaN baseline": (
        TINY.replace("3e-3", 'float("nan")'),
        "'backward': the value nan of 'optimizer/learning_rate' is not a finite number",
    ),
    "list of baselines": (declares("BASELINES = []"), "must map names to parameters"),
    "baseline without parameters": (
        declares('BASELINES = {"a": 3}'),
        "BASELINES .* 'a' must map parameters to values, but is 3",
    ),
    "numbered baselines": (
        declares("BASELINES = {1: BASELINES['backward']}"),
        "the name of a baseline must be a text of 1 to 250 characters, but is 1",
    ),
    "deep baseline": (
        declares("x = []\nfor _ in range(100_000):\n    x = [x]\nBASELINES = {'a': {'b': x}}"),
        "BASELINES .* must be JSON data: maximum recursion",
    ),
    "reference is text": (declares('REFERENCE = "backward"'), "must be a list of names, but is '"),
    "reference is a number": (declares("REFERENCE = 3"), "REFERENCE .* a list of names, but is 3"),
    "families of numbers": (TINY + 'FAMILIES = {"a": 3}', "FAMILIES .* a list of names, but is 3"),
    "families of text": (TINY + 'FAMILIES = {"a": "backward"}', "a list of names, but is 'backw"),
    "goal": (TINY + 'GOAL = "\\ud800"', "GOAL .* valid Unicode of at most 2,000 characters"),
    "long goal": (TINY + 'GOAL = "x" * 1_000_000', "GOAL .* of at most 2,000 characters"),
    "objective": (TINY + 'OBJECTIVE = float("nan")', "OBJECTIVE .* must be text"),
    "long objective": (TINY + 'OBJECTIVE = "(" * 100_000', "OBJECTIVE .*objective '\\(+"),
    "choice": (
        asks('suggest_categorical("p", [np.int64(1), np.int64(2)])', "1"),
        r"'backward': parameter 'p': the choice .*1.* write int\(\.\.\.\) around it",
    ),
    "range": (asks('suggest_float("p", 2, 1)', "1"), "parameter 'p': `low <= high` must hold"),
    "name": (asks('suggest_float("\\ud800", 0, 1)', "1"), "printable characters, but is"),
}


@pytest.mark.parametrize("mode", ["--dry-run", "--quiet"])
@pytest.mark.parametrize("name", SPACES)
def test_a_space_with_a_fault(tmp_path: Path, name: str, mode: str) -> None:
    """Found by `--dry-run`, and before Ray at every start; nothing of a study is written."""
    text, message = SPACES[name]
    file = tmp_path / "space.py"
    file.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    runs = tmp_path / "runs"
    refused(2, message, "--space", file, "--storage", runs, "--trials", "6", mode)
    assert not (runs / "space").exists()


NO_TEXT, DIRECTORY = b"\xff\xfe\xfa", None
MANIFEST = "manifest.json is not a readable manifest: .*; restore it from a copy, or put the study"

# A file of a study, what is in it (None: it is a folder), and what the line says; all are status 5.
FILES: list[tuple[str, bytes | None, str]] = [
    *(
        ("manifest.json", text, MANIFEST)
        for text in (b"", b"\0" * 4096, NO_TEXT, b"{", b"[]", b"3")
    ),
    ("manifest.json", b"[" * 100_000, MANIFEST),
    ("manifest.json", b"9" * 10_000, MANIFEST),
    ("manifest.json", b'\xef\xbb\xbf{"study": "space"}', MANIFEST),
    ("manifest.json", DIRECTORY, MANIFEST),
    ("lease.json", DIRECTORY, "cannot take the lease of .*Is a directory"),
    ("lease.lock", DIRECTORY, "cannot take the lease of .*Is a directory"),
    ("study.journal", DIRECTORY, "cannot open the study storage .*study.journal: .*Is a directory"),
    *(("outbox/uid", text, "uid: does not hold the identifier") for text in (b"", b"\0", NO_TEXT)),
    ("outbox/uid", DIRECTORY, "uid: Is a directory"),
    ("outbox/events.jsonl", DIRECTORY, "events.jsonl: Is a directory"),
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a study that came as far as starting Ray."""
    storage = tmp_path_factory.mktemp("stored") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        assert call("--space", TINY_SPACE, "--storage", storage, "--quiet")[0] == "ray"
    return storage


@pytest.fixture
def copied(study: Path, tmp_path: Path) -> Path:
    shutil.copytree(study, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.mark.parametrize(("name", "content", "message"), FILES, ids=lambda v: str(v)[:24])
def test_a_damaged_file_of_a_study(
    copied: Path, name: str, content: bytes | None, message: str
) -> None:
    """Named, and neither repaired by guesses nor passed over: no second search begins in the folder."""
    file = copied / TINY_SPACE.stem / name
    file.unlink()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    journal = file.with_name("study.journal") if file.parent.name == TINY_SPACE.stem else None
    before = journal.read_bytes() if journal is not None and journal.is_file() else b""
    status, lines = call("--space", TINY_SPACE, "--storage", copied, "--quiet")
    assert status == 5, (status, lines[:3])
    assert re.search(message, lines[0]), lines[0]
    # Where the remedy is to run the command again, it follows.
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("  ")), lines
    if journal is not None and journal.is_file():
        assert journal.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\0" * 4096], ids=["empty", "zeros"])
def test_an_emptied_journal_starts_no_second_search(copied: Path, content: bytes) -> None:
    folder = copied / TINY_SPACE.stem
    (folder / "trials" / "00000").mkdir(parents=True)
    (folder / "study.journal").write_bytes(content)
    (folder / "study.journal.moved-1").write_bytes(b"")
    status, lines = call("--space", TINY_SPACE, "--storage", copied, "--quiet")
    assert status == 5
    assert "study.journal holds no trial of study tiny_space, but" in lines[0]
    assert "a copy next to it: study.journal.moved-1" in lines[0]
    assert (folder / "study.journal").read_bytes() == b""


@pytest.mark.parametrize("name", ["status.json", "best.json", "lease.json"])
@pytest.mark.parametrize("content", [b"", b"\0" * 4096, NO_TEXT, b"[" * 100_000, b"null"])
def test_what_a_driver_writes_anew_may_be_damaged(copied: Path, name: str, content: bytes) -> None:
    (copied / TINY_SPACE.stem / name).write_bytes(content)
    given = "--space", TINY_SPACE, "--storage", copied
    assert call(*given, "--status") == (0, [])
    assert call(*given, "--dry-run") == (0, [])


DEEP = "x" + ".x" * 10_000
RESERVED = "is reserved for what lies next to the studies"

# Options, and what the line says; all are status 2.
OPTIONS: list[tuple[list[str], str]] = [
    (["--set", f"{DEEP}=1"], r"--set x\.x.*\.\.\.: .* is not a setting; known: data, "),
    (["--set=model=" + "[" * 100_000], "--set model=.*nested too deeply for any setting"),
    (["--set=model=" + '{"a":' * 20_000 + "1" + "}" * 20_000], "nested too deeply"),
    (["--set=budget.images=" + "9" * 1_000_000], "--set budget.images=9.*too many digits"),
    (["--set=budget.images=" + "x" * 1_000_000], "budget.images: .* unable to parse string"),
    (["--set=budget.images=1", "--set=budget.images=2"], "`budget.images` is set twice"),
    (['--set=budget={"images": 1, "images": 2}'], "the key 'images' is given twice"),
    (["--set=optimizer.warmup=NaN"], "optimizer.warmup: Input should be a finite number"),
    (["--set=optimizer.weight_decay=1e999"], "optimizer.weight_decay: .* finite number"),
    (["--set=seed=99999999999999999999999"], "seed: Input should be less than"),
    (['--set=seed={"a": 1}'], "seed: Input should be a valid integer"),
    (["--set==3"], "`` is not a setting"),
    (["--set="], "write it as path=value"),
    (["--set=budget.images=\udcff"], "budget.images: .* unable to parse"),
    (["--trials=1000000000"], "--trials: .* less than or equal to 100000 .got 1000000000"),
    (["--trials=" + "9" * 5000], "--trials: invalid int value: '9+"),
    (["--trials=-1"], "--trials: .* greater than or equal to 1 .got -1"),
    (["--trials=1.5"], r"--trials: invalid int value: '1.5' \(--help lists the options\)"),
    (["--trials="], "--trials: invalid int value: ''"),
    (["--study="], "--study: must start with a letter or digit .*got ''"),
    (["--study=.."], "--study: must start with a letter or digit"),
    (["--study=a\0b"], "--study: must start with a letter or digit"),
    (["--study=" + "a" * 101], "--study: .* at most 100 characters"),
    *(([f"--study={name}"], RESERVED) for name in ("teachers", "Teachers", "mlflow.db", "confirm")),
    *(([f"--study={name}"], RESERVED) for name in ("MLFLOW.DB", "mlflow.db-wal", "mlartifacts")),
    (["--study=.ray"], "--study: must start with a letter or digit"),
    (["--seed=-1"], "--seed: .* greater than or equal to 0"),
    (["--seed=99999999999999999999"], "--seed: .* less than 9223372036854775808"),
    (["--startup-trials=1000000000000"], "--startup-trials: .* equal to 1000000"),
    (["--max-failures=0"], "--max-failures: .* equal to 1"),
    (["--reduction=nan"], "--reduction: .* finite number"),
    (["--reduction=1"], "--reduction: .* greater than 1"),
    (["--grace=-1"], "--grace: .* equal to 0"),
    (["--grace=1" + "0" * 30], "--grace: .* less than 9223372036854775808"),
    (["--protect=2"], "--protect: .* less than or equal to 1"),
    (["--workers-per-trial=1000000000"], "--workers-per-trial: .* equal to 1000000"),
    (["--max-concurrent=1000000000"], "--max-concurrent: .* equal to 1000000"),
    (["--cpus-per-worker=inf"], "--cpus-per-worker: .* finite number"),
    (["--cpus-per-worker=1e300"], "--cpus-per-worker: .* equal to 10000"),
    (["--cpus-per-worker=1e-300"], "--cpus-per-worker: .* equal to 0.0001"),
    (["--gpus-per-worker=1e9"], "--gpus-per-worker: .* equal to 1000"),
    (["--time-budget=0s"], "--time-budget: .* greater than 0"),
    (["--time-budget=-1h"], "--time-budget: must be a time such as 90s"),
    (["--time-budget=" + "9" * 30 + "d"], "--time-budget: .* less than or equal to 320000000"),
    (["--time-budget=" + "9" * 400 + "d"], "--time-budget: .* finite number"),
    (["--objectives="], "--objectives: .* must be NAME@NFE"),
    (["--objectives=" + "a@1," * 10_000 + "a@1"], "--objectives: "),
    (["--keep-models=best:0"], "--keep-models: must be all, none or best:N"),
    (["--sampler="], "--sampler: invalid choice: ''"),
    (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    (["--space="], "--space '': names no search space; give a module"),
    (["--space=/"], "--space '/': names no search space"),
    (["--space=a\0.py"], r"--space 'a\\x00.py': names no search space"),
    (["--space=../x"], "--space ../x: search space '../x' is unknown; known: "),
    (["--space=nope.py"], "--space nope.py: there is no search space at "),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=lambda value: str(value)[:40])
def test_an_option_with_a_fault(tmp_path: Path, options: list[str], message: str) -> None:
    given = ["--storage", tmp_path / "runs", "--dry-run"]
    refused(2, message, "--space", TINY_SPACE, *given, *options)


def test_a_hundred_thousand_trials_are_forecast(tmp_path: Path) -> None:
    given = ["--storage", tmp_path / "runs", "--dry-run", "--trials=100000"]
    assert call("--space", TINY_SPACE, *given) == (0, [])


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"], ids=["CRLF", "BOM"])
def test_line_ends_and_byte_order_marks_of_editors_are_no_fault(
    tmp_path: Path, prefix: bytes
) -> None:
    file = tmp_path / "space.py"
    file.write_bytes(prefix + TINY.replace("\n", "\r\n").encode())
    assert call("--space", file, "--storage", tmp_path / "runs", "--dry-run") == (0, [])


def test_ctrl_c_while_a_space_loads_is_an_interruption(tmp_path: Path) -> None:
    file = tmp_path / "space.py"
    file.write_text(at_top("raise KeyboardInterrupt"))
    status, lines = call("--space", file, "--storage", tmp_path / "runs", "--dry-run")
    assert (status, len(lines)) == (130, 1)
    assert "Nothing was started" in lines[0]
