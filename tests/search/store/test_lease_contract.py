"""What every lease promises, in a folder and in a database: one suite for both."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from meanflow_tune.search.errors import LeaseLost, StudyInUse
from meanflow_tune.search.store.database_lease import TABLE, AnyLease, acquire_lease
from meanflow_tune.search.store.holder import read_lease
from tests.support.paths import ROOT
from tests.support.servers.postgresql import PostgresServer

NAME = "digits"
HOLD = """
import sys
from meanflow_tune.search.errors import StudyInUse
from meanflow_tune.search.store.database_lease import acquire_lease
try:
    lease = acquire_lease(sys.argv[1], sys.argv[2], sys.argv[3] or None, float(sys.argv[4]))
except StudyInUse as error:
    print("refused", flush=True)
    sys.exit(4)
print("held", lease.epoch, flush=True)
sys.stdin.read()
lease.release()
"""


@dataclass(frozen=True)
class Place:
    """Where leases of one study are: a folder, and the URL of a database or None.

    query: SQL on the database's server.
    """

    folder: Path
    url: str | None
    query: Callable[[str], str]

    def acquire(self, stale_after: float = 30.0) -> AnyLease:
        return acquire_lease(self.folder, NAME, self.url, stale_after)

    def start(self, stale_after: float = 30.0) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", HOLD, self.folder, NAME, self.url or "", str(stale_after)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def holder(self, stale_after: float = 30.0) -> Iterator[subprocess.Popen[str]]:
        process = self.start(stale_after)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("held")
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def make_foreign(self) -> None:
        """Make the holder one of another host."""
        path = self.folder / "lease.json"
        host = os.uname().nodename
        path.write_text(path.read_text().replace(f'"{host}"', '"elsewhere"'))
        if self.url is not None:
            self.query(f"UPDATE {TABLE} SET host = 'elsewhere'")


@pytest.fixture(params=["folder", "database"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place(tmp_path, None, str)
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_url()
    return Place(tmp_path, url, lambda sql: server.query(sql, url.rpartition("/")[2]))


def test_epochs_grow_over_releases(place: Place) -> None:
    for epoch in (1, 2, 3):
        with place.acquire() as lease:
            assert (lease.epoch, lease.taken_over) == (epoch, False)
            lease.check()
            state = read_lease(place.folder)
            assert state is not None
            assert state.epoch == epoch  # which workers look at
    lease.release()  # twice


def test_a_live_holder_is_named(place: Place) -> None:
    with place.holder() as process, pytest.raises(StudyInUse) as caught:
        place.acquire()
    message = str(caught.value)
    assert f"process {process.pid} on host {os.uname().nodename}" in message
    assert "s ago" in message
    assert "canary" not in message


def test_the_same_process_cannot_hold_it_twice(place: Place) -> None:
    with place.acquire() as lease:
        with pytest.raises(StudyInUse):
            place.acquire()
        lease.check()


def test_a_killed_holder_is_replaced_at_once(place: Place) -> None:
    with place.holder() as process:
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with place.acquire() as lease:
            assert (lease.epoch, lease.taken_over) == (2, True)


def test_one_of_many_wins(place: Place) -> None:
    processes = [place.start() for _ in range(5)]
    said = [process.stdout.readline() for process in processes if process.stdout]
    for process in processes:
        process.communicate("")
    assert sorted(said) == ["held 1\n"] + ["refused\n"] * 4


def test_a_live_holder_elsewhere_keeps_it(place: Place) -> None:
    with place.holder(stale_after=0.5):
        place.make_foreign()
        with pytest.raises(StudyInUse, match="on host elsewhere"):
            place.acquire(stale_after=30.0)


def test_a_silent_holder_elsewhere_is_replaced_and_finds_out(place: Place) -> None:
    old = place.acquire(stale_after=0.5)
    with _suspended(old):
        place.make_foreign()
        time.sleep(0.8)
        with place.acquire(stale_after=0.5) as new:
            assert new.epoch > old.epoch
            assert new.taken_over
            with pytest.raises(LeaseLost, match="this driver must stop"):
                old.check()
            old.release()
            new.check()  # the loser's release leaves it alone


@contextmanager
def _suspended(lease: AnyLease) -> Iterator[None]:
    """Its heartbeat has ended, as that of a suspended driver."""
    parts = [lease, getattr(lease, "_files", None)]
    for part in parts:
        if part is not None:
            part._stop.set()
            part._thread.join()
    yield
