"""What a test needs of the machine: without it the test is skipped by name, and fails in CI."""

import os
import shutil
from typing import NoReturn

import pytest


def unavailable(reason: str) -> NoReturn:
    """Skip the running test for a reason; with CI=true in the environment, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"cannot run in CI: {reason}", pytrace=False)
    pytest.skip(reason)


def needs(program: str, what_for: str) -> None:
    """Go on only where a program is on the PATH."""
    if shutil.which(program) is None:
        unavailable(f"needs the program {program!r} {what_for}")


def needs_root(what_for: str) -> None:
    """Go on only as root."""
    if os.geteuid() != 0:
        unavailable(f"needs root {what_for}")
