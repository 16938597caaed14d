"""Slots come and go with hosts, and start again whatever happens while they start."""

from collections.abc import Callable

import pytest

from tests.support.hosts.namespaces import wait_until
from tests.support.hosts.paced_search import PacedSearch
from tests.support.hosts.ray_hosts import RayHosts

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(1500)]

Conclude = Callable[[PacedSearch], None]
RECOVERY_SECONDS = 240.0


def test_two_hosts_that_are_127_0_1_1_to_themselves_share_a_trial(
    cluster: RayHosts, conclude: Conclude
) -> None:
    """The default of Debian and Ubuntu; gloo takes the address of a host's name."""
    names = [host.run(["hostname", "-i"]).stdout.strip() for host in cluster.bed.hosts]
    assert names == ["127.0.1.1"] * 3
    search = PacedSearch(cluster, trials=4, slots=1, workers=2)
    search.begin(cluster.bed.hosts[0])
    assert len(search.hosts_of_ranks()) == 2
    conclude(search)


@pytest.mark.parametrize("times", [1, 3])
def test_a_rank_dies_while_its_slot_starts(
    times: int, cluster: RayHosts, conclude: Conclude
) -> None:
    """In the set-up of the process group, where Ray Train forgets what the group holds."""
    search = PacedSearch(cluster, trials=4, slots=1, workers=2)
    cluster.set_pace(0.3)
    driver = search.start(cluster.bed.hosts[0])
    # Before, hosts are checked by a process group, too.
    _wait(search, lambda: "trial at once" in driver.said())
    for _ in range(times):
        cluster.set_up_fault.write_text("kill")
        _wait(search, lambda: not cluster.set_up_fault.exists())
    search.wait_for_slots(RECOVERY_SECONDS)
    conclude(search)


def test_a_new_host_adds_a_slot_and_a_lost_one_takes_it_away(
    cluster: RayHosts, conclude: Conclude
) -> None:
    search = PacedSearch(cluster, slots=None)
    search.begin(cluster.bed.hosts[0], slots=3)
    new = cluster.bed.add()
    new.boot()
    cluster.start_worker(new)
    found = search.wait_for_slots(RECOVERY_SECONDS, slots=4)
    assert new.name in {rank.host for rank in found}
    new.power_off()
    cluster.wait_for(3)
    search.wait_for_slots(RECOVERY_SECONDS, lambda rank: rank.host == new.name, slots=3)
    conclude(search)
    assert search.driver is not None
    assert new.address in search.driver.said(), "which host was lost is not said"


def _wait(search: PacedSearch, condition: Callable[[], bool]) -> None:
    """Until a condition holds, while the driver runs."""

    def holds() -> bool:
        assert search.driver is not None
        assert search.driver.poll() is None, search.driver.said()[-3000:]
        return condition()

    wait_until(holds, RECOVERY_SECONDS, search.report)
