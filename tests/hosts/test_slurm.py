"""deploy/slurm.sh with the real Ray on two hosts: the time limit comes, the job starts again and resumes."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.hosts.namespaces import Bed, open_bed, wait_until
from tests.support.hosts.paced_search import (
    HERE,
    START_SECONDS,
    PacedSearch,
    Results,
    assert_undisturbed,
    command,
)
from tests.support.hosts.ray_hosts import RayHosts
from tests.support.hosts.slurm import Slurm, running_slurm
from tests.support.paths import ROOT

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(900)]
JOB = 4711


@pytest.fixture(scope="module")
def allocation() -> Iterator[Bed]:
    with open_bed(2) as bed:
        yield bed


@pytest.fixture
def slurm(allocation: Bed) -> Iterator[Slurm]:
    with running_slurm(allocation) as slurm:
        yield slurm


def checkout(folder: Path) -> Path:
    """One whose tune.py is the paced one."""
    (folder / "scripts").mkdir(parents=True)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "scripts" / "tune.py").symlink_to(HERE / "paced.py")
    return folder


def test_a_job_stops_before_its_time_limit_and_resumes_when_it_starts_again(
    allocation: Bed, slurm: Slurm, reference: Callable[[int], Results]
) -> None:
    first = allocation.hosts[0]
    cluster = RayHosts(allocation, head=first)
    search = PacedSearch(cluster)
    private = allocation.shared / "private"
    settings = {
        **cluster.environment(),
        "MEANFLOW_TUNE_HOME": str(checkout(allocation.shared / "checkout")),
        "MEANFLOW_TUNE_PRIVATE": str(private),
        "HOSTS_TRIALS": str(search.trials),
    }
    options = command(search.storage, search.trials)[2:]  # without the interpreter and the script
    script = ROOT / "deploy" / "slurm.sh"
    cluster.set_pace(1.0)
    search.driver = slurm.start(first, script, JOB, *options, **settings)
    search.wait_for_slots(START_SECONDS, slots=2)
    assert search.hosts_of_ranks() == {host.name for host in allocation.hosts}
    (token,) = private.iterdir()
    assert os.stat(token).st_mode & 0o777 == 0o600

    search.driver.signal(signal.SIGUSR1)  # what `--signal=B:USR1@600` sends to the script alone
    assert search.driver.wait(120.0) == 130, search.driver.said()
    assert slurm.requeued(JOB)
    assert "is resumed by job 4711 when it starts again" in search.driver.said()
    nothing_runs(allocation)
    assert list(private.iterdir()) == []

    cluster.set_pace(0.0)
    search.driver = slurm.start(first, script, JOB, *options, SLURM_RESTART_COUNT="1", **settings)
    assert search.driver.wait(START_SECONDS) == 0, search.driver.said()
    assert_undisturbed(search.results(), reference(1), search.trials)
    nothing_runs(allocation)


def nothing_runs(bed: Bed) -> None:
    def left() -> list[str]:
        return [words for host in bed.hosts for words in host.processes().values()]

    wait_until(lambda: not left(), 60.0, lambda: f"left: {left()}")
