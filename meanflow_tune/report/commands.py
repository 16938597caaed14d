"""The commands that a user is shown: absolute and quoted, so that they work from any folder."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from meanflow_tune.files import sqlite_below
from meanflow_tune.plan.request import SearchRequest

INSTALLED = "meanflow-tune"
# Options whose value may be a path from the current folder.
PATHS = (
    *("--storage", "--space", "--import-study", "--tracking-uri", "--study-storage"),
    *("--config", "--output", "--cache"),
)


def search_command(called: Sequence[str], request: SearchRequest) -> str:
    """The command that resumes a search. called: as the user did, `sys.argv`.

    It names the storage folder, whose default depends on the current folder, and takes no lease over: that
    is decided anew each time.
    """
    words = [word for word in shlex.split(called_command(called)) if word != "--take-over"]
    if not any(word.partition("=")[0] == "--storage" for word in words):
        words += ["--storage", str(request.storage)]
    return shlex.join(words)


def called_command(called: Sequence[str]) -> str:
    """The command as the user called it, with absolute paths in it."""
    script = Path(called[0]).absolute()
    words = [str(script)]
    if script.suffix == ".py":
        words.insert(0, sys.executable)
    option = ""
    for word in called[1:]:
        name, equals, value = word.partition("=")
        if equals and name in PATHS:
            words.append(f"{name}={_absolute(name, value)}")
        else:
            words.append(_absolute(option, word) if option in PATHS else word)
        option = word
    return shlex.join(words)


def _absolute(option: str, value: str) -> str:
    """The value of one of PATHS, where it is a path."""
    if ":///" in value:  # a relative --study-storage is one from the storage folder, which is named
        return value if option == "--study-storage" else sqlite_below(value, Path())
    path = Path(value).expanduser()
    is_path = {
        "--space": path.suffix == ".py",
        "--import-study": len(path.parts) > 1,
        "--tracking-uri": path.is_dir(),
        "--study-storage": False,
    }
    return str(path.absolute()) if value and is_path.get(option, True) else value


def extended(command: str, trials: int) -> str:
    """The command of a search with another total of trials."""
    return changed(command, "--trials", str(trials))


def changed(command: str, option: str, value: str) -> str:
    """The command of a search with another value of an option."""
    kept = []
    skip = False
    for word in shlex.split(command):
        if not skip and word != option and not word.startswith(f"{option}="):
            kept.append(word)
        skip = word == option
    return shlex.join([*kept, option, value])


def train_command(command: str, *arguments: str | Path) -> str:
    """The command that trains one configuration, called in the same way as that of a search."""
    first, *rest = shlex.split(command)
    if Path(first).name == INSTALLED or not rest:
        words = [first, "train"]
    else:
        words = [first, str(Path(rest[0]).with_name("train.py"))]
    return shlex.join([*words, *map(str, arguments)])


def mlflow_command(uri: str) -> str:
    """The command that shows a database of MLflow in a browser."""
    program = Path(sys.executable).with_name("mlflow")
    return shlex.join(
        [
            str(program),
            "ui",
            "--backend-store-uri",
            uri,
            "--host",
            "127.0.0.1",
            "--port",
            "5000",
            "--workers",
            "1",
        ]
    )
