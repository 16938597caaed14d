"""The command `tune` in the process of a test, up to the moment when Ray would start."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.cluster.runner import Runner
from meanflow_tune.driver.tune_command import main


class RayStarts(BaseException):
    """The command came as far as starting Ray."""


def _ray_starts(**_: Any) -> Iterator[Any]:
    raise RayStarts


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "start", _ray_starts)


def call(*arguments: str | Path) -> tuple[int | str, list[str]]:
    """The exit status, or "ray", and the lines on standard error."""
    err = io.StringIO()
    status: int | str
    with contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in arguments])
        except RayStarts:
            status = "ray"
        except SystemExit as error:  # of the parser of the command line
            status = error.code if isinstance(error.code, int) else str(error.code)
    return status, err.getvalue().splitlines()
