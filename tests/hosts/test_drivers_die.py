"""Drivers and the head die under a search on three hosts."""

import signal
from collections.abc import Callable

import pytest

from tests.support.hosts.faults import Faults
from tests.support.hosts.measured import Measured
from tests.support.hosts.paced_search import PacedSearch
from tests.support.hosts.ray_hosts import RayHosts

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(1500)]

Conclude = Callable[[PacedSearch], None]


def test_a_driver_is_replaced_from_another_host(
    cluster: RayHosts, conclude: Conclude, measured: Measured
) -> None:
    """The successor waits for the lease of the dead one, and says so."""
    search = PacedSearch(cluster)
    search.begin(cluster.bed.hosts[1])
    measured.add("driver replaced", Faults(search).driver(cluster.bed.hosts[2]))
    assert search.driver is not None
    assert "free in " in search.driver.said()
    conclude(search)


def test_a_driver_that_lost_its_host_is_replaced_at_once_on_request(
    cluster: RayHosts, conclude: Conclude, measured: Measured
) -> None:
    """`--take-over` shortens the wait, since the head no longer knows the holder's host."""
    search = PacedSearch(cluster)
    search.begin(cluster.bed.hosts[1])
    seconds = Faults(search).drivers_host(cluster.bed.hosts[2], "--take-over")
    measured.add("driver's host lost", seconds)
    conclude(search)


def test_the_head_is_rebuilt(cluster: RayHosts, conclude: Conclude, measured: Measured) -> None:
    """The driver ends with 5, one line and the command, which goes on with the new head."""
    search = PacedSearch(cluster)
    search.begin(cluster.bed.hosts[1])
    lost = search.driver
    measured.add("head rebuilt", Faults(search).head())
    assert lost is not None
    last = lost.said().strip().splitlines()[-2:]
    assert "tune.py: " in last[0], lost.said()[-3000:]
    assert str(search.storage) in last[1], lost.said()[-3000:]
    assert "Traceback" not in lost.said()
    conclude(search)


def test_a_driver_waits_for_its_head(
    cluster: RayHosts, conclude: Conclude, measured: Measured
) -> None:
    """`--wait-for-cluster`: the same process goes on with the new head."""
    search = PacedSearch(cluster, options=("--wait-for-cluster=10m",))
    search.begin(cluster.bed.hosts[1])
    measured.add("head rebuilt, waited for", Faults(search).head(waits=True))
    conclude(search)


def test_sigterm_to_the_drivers_process_group(cluster: RayHosts, conclude: Conclude) -> None:
    """As `scancel` and `systemctl stop` do: a safe point, status 130, the command that resumes."""
    search = PacedSearch(cluster)
    search.begin(cluster.bed.hosts[0])
    driver = search.driver
    assert driver is not None
    driver.signal(signal.SIGTERM, group=True)
    assert driver.wait(60.0) == 130, driver.said()[-3000:]
    assert "Resume with" in driver.said()
    search.start(cluster.bed.hosts[0])
    search.wait_for_slots(240.0)
    conclude(search)


def test_sigterm_to_the_process_group_of_a_driver_with_its_own_ray(cluster: RayHosts) -> None:
    """The local Ray does not end before the trials have reached a safe point."""
    search = PacedSearch(cluster, slots=1)
    cluster.set_pace(0.3)
    driver = search.start_alone(cluster.bed.hosts[1])
    search.wait_for_slots(240.0)
    driver.signal(signal.SIGTERM, group=True)
    assert driver.wait(60.0) == 130, driver.said()[-3000:]
    assert "Resume with" in driver.said()
    assert "Traceback" not in driver.said()
