"""One bed of three hosts and one Ray cluster on them for the whole session, made whole before each test."""

import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.support.hosts.measured import Measured
from tests.support.hosts.namespaces import Bed, open_bed, wait_until
from tests.support.hosts.paced_search import (
    PacedSearch,
    Results,
    assert_undisturbed,
    leftovers,
    undisturbed,
)
from tests.support.hosts.ray_hosts import RayHosts

TRIALS = {1: 12, 2: 4}  # of the undisturbed run, by ranks per trial
LEFTOVER_SECONDS = 60.0
_measured = Measured()


@pytest.fixture(scope="session")
def measured() -> Measured:
    """What `pytest_terminal_summary` prints."""
    return _measured


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _measured.seconds:
        terminalreporter.section("seconds from fault to recovery")
        for line in _measured.lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Its logs are kept in pytest's temporary folder."""
    with open_bed(3) as bed:
        try:
            yield bed
        finally:
            shutil.copytree(bed.logs, tmp_path_factory.mktemp("hosts") / "logs")


@pytest.fixture(scope="session")
def reference(bed: Bed) -> Callable[[int], Results]:
    """The results of the undisturbed run, by the number of ranks per trial; each is made once."""
    made: dict[int, Results] = {}

    def results(workers: int) -> Results:
        if workers not in made:
            made[workers] = undisturbed(bed, bed.hosts[-1], TRIALS[workers], workers)
        return made[workers]

    return results


@pytest.fixture(scope="session")
def started(bed: Bed, reference: Callable[[int], Results]) -> RayHosts:
    reference(1)  # before Ray runs on these hosts
    cluster = RayHosts(bed)
    cluster.start()
    return cluster


@pytest.fixture
def cluster(started: RayHosts) -> RayHosts:
    """Three hosts in a cluster, whatever the test before has done to them."""
    started.set_up_fault.unlink(missing_ok=True)
    for host in started.bed.hosts:
        if host.is_on:
            host.heal()
            for pid, words in host.processes().items():
                if "paced.py" in words:
                    host.end(pid)
    for host in started.bed.hosts[3:]:
        started.bed.remove(host)
    if not is_whole(started):
        for host in started.bed.hosts:
            host.kill()
            host.boot()
        started.daemons.clear()
        started.start()
    return started


def is_whole(cluster: RayHosts) -> bool:
    """Whether all hosts are in the cluster and nothing of an earlier search is left."""
    addresses = [host.address for host in cluster.bed.hosts]
    if not all(host.is_on for host in cluster.bed.hosts):
        return False
    try:
        wait_until(
            lambda: (
                (state := cluster.census())["nodes"] == addresses
                and state["free"] == state["total"]
            ),
            30.0,
            "a whole cluster",
        )
    except (AssertionError, TimeoutError):
        return False
    return True


@pytest.fixture
def conclude(
    cluster: RayHosts, reference: Callable[[int], Results]
) -> Callable[[PacedSearch], None]:
    """Let a search end, compare it with the undisturbed run, and count what it has left."""
    before = {
        host.name: {p.name for p in host.shared_memory.iterdir()} for host in cluster.bed.hosts
    }

    def conclude(search: PacedSearch) -> None:
        search.finish()
        assert_undisturbed(search.results(), reference(search.workers), search.trials)
        found: list[str] = []

        def none_left() -> bool:
            found[:] = leftovers(search, before)
            return not found

        wait_until(none_left, LEFTOVER_SECONDS, lambda: f"left behind: {found}")

    return conclude
