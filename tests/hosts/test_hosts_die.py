"""Ranks, raylets, hosts and links break under a search on three hosts."""

from collections.abc import Callable

import pytest

from tests.support.hosts.faults import Faults
from tests.support.hosts.measured import Measured
from tests.support.hosts.paced_search import PacedSearch
from tests.support.hosts.ray_hosts import RayHosts

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(1500)]

Conclude = Callable[[PacedSearch], None]


def test_a_chain_of_dead_ranks_raylets_hosts_and_links(
    cluster: RayHosts, conclude: Conclude, measured: Measured
) -> None:
    """After each, all slots train again; the host that was cut off comes back by itself."""
    search = PacedSearch(cluster)
    search.begin(cluster.bed.hosts[0])
    faults = Faults(search)
    measured.add("rank killed", faults.rank())
    measured.add("raylet killed", faults.raylet())
    measured.add("power cut", faults.power())
    measured.add("link cut", faults.link())
    conclude(search)
