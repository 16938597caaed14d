"""Which tests run by default: the quick ones, and every test that the command line names.

Where a folder or nothing is given, tests marked `slow`, `cluster` or `hosts` are deselected. A file, a
node id and --lf name tests: those run whatever their marks. An explicit -m decides alone.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.servers.postgresql import PostgresServer
    from tests.support.servers.s3 import S3Server

DESELECTED = ("slow", "cluster", "hosts")

# Several processes test side by side, and threads that wait for each other's cores spin: at load 20 the
# tests took ten times as long. Before torch is imported; the processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def postgres() -> "Iterator[PostgresServer]":
    """A PostgreSQL server for all tests of a process, each of which names its own database."""
    from tests.support.servers.postgresql import running_postgres

    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> "Iterator[S3Server]":
    """An S3 server for all tests of a process, each of which names its own bucket."""
    from tests.support.servers.s3 import running_s3

    with running_s3() as server:
        yield server


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr or "-m" in config.invocation_params.args:  # also -m ''
        return
    named = [_file_and_test(config, argument) for argument in config.args]
    again = getattr(config.option, "lf", False) and config.cache  # neither with -p no:cacheprovider
    failed = config.cache.get("cache/lastfailed", {}) if again and config.cache else {}

    def is_named(item: pytest.Item) -> bool:
        test = item.nodeid.partition("::")[2]
        return item.nodeid in failed or any(
            item.path == file
            and (not name or test == name or test.startswith((f"{name}[", f"{name}::")))
            for file, name in named
        )

    left_out = [
        item
        for item in items
        if any(item.get_closest_marker(mark) for mark in DESELECTED) and not is_named(item)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _file_and_test(config: pytest.Config, argument: str) -> tuple[Path, str]:
    path, _, test = argument.partition("::")
    return Path(os.path.abspath(config.invocation_params.dir / path)), test
