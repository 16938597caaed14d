"""The commands that a user is shown: absolute and quoted, so that they work from any folder."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from meanflow_tune.files import sqlite_below
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.urls import HIDDEN, has_hidden, hide_password

INSTALLED = "meanflow-tune"
# What a search does once, when it begins: again, it would put the new study aside, take it from its own
# driver, or accept changes that nobody has seen.
ONE_OFF = ("--resume=fresh", "--take-over", "--accept-changes")
# Where an option's value can stand instead, out of sight of `ps` and of the shell's history.
VARIABLES = {"--study-storage": "OPTUNA_STORAGE", "--tracking-uri": "MLFLOW_TRACKING_URI"}
# Options whose value may be a path from the current folder.
PATHS = (
    *("--storage", "--space", "--import-study", "--tracking-uri", "--study-storage"),
    *("--config", "--output", "--cache"),
)


def search_command(
    called: Sequence[str],
    request: SearchRequest,
    begun: bool = True,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """The command that resumes a search. called: as the user did, `sys.argv`.

    It names what depends on the current folder or the environment, and hides passwords. begun: the search
    has done what its options ask for once, such as `--resume fresh`; they are left out.
    """
    words = shlex.split(called_command(called))
    if begun:
        words = _without_one_off(words)
    for option, value in (
        ("--storage", str(request.storage)),
        ("--study-storage", request.study_storage),
        ("--tracking-uri", request.tracking_uri),
    ):
        if value is not None and not any(word.partition("=")[0] == option for word in words):
            words += [option, _absolute(option, value)]
    address = environment.get("RAY_ADDRESS")
    if address and request.cluster == "" and "--cluster" in words:
        words.insert(words.index("--cluster") + 1, address)
    return shlex.join(hide_password(word) for word in words)


def with_remedy(command: str) -> str:
    """A command of `search_command`, and how to use it where a password is hidden in it."""
    if not has_hidden(command):
        return command
    used = [
        f"{variable} instead of {option}"
        for option, variable in VARIABLES.items()
        if any(has_hidden(value) for value in values_of(command, option))
    ]
    return f"{command}\n  (put the hidden part in the place of {HIDDEN}" + (
        f", or set {' and '.join(used)})" if used else ")"
    )


def values_of(command: str, option: str) -> list[str]:
    """The values that an option has in a command."""
    words = shlex.split(command)
    pairs = zip(words, [*words[1:], ""], strict=True)
    joined = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    return [following for word, following in pairs if word == option] + joined


def _without_one_off(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for word in words:
        if word == "fresh" and kept and kept[-1] == "--resume":
            kept.pop()
        elif word not in ONE_OFF:
            kept.append(word)
    return kept


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
    if "://" in value:
        return value
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
