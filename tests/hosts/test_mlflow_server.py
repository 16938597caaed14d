"""An MLflow server on a host of its own goes down and comes back under a search."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.hosts.faults import Faults
from tests.support.hosts.mlflow_host import MlflowHost
from tests.support.hosts.paced_search import PacedSearch, Results, assert_undisturbed
from tests.support.hosts.ray_hosts import RayHosts

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(1500)]


@pytest.fixture
def server(cluster: RayHosts) -> Iterator[MlflowHost]:
    server = MlflowHost(cluster.bed)
    server.start()
    yield server
    server.close()


def test_mlflow_goes_down_and_comes_back(
    cluster: RayHosts, server: MlflowHost, reference: Callable[[int], Results]
) -> None:
    search = PacedSearch(cluster, options=(f"--tracking-uri={server.uri}",))
    search.begin(cluster.bed.hosts[0])
    server.stop()
    time.sleep(5.0)  # reports and ends of trials come meanwhile
    Faults(search).rank()
    server.start()
    search.finish()
    assert_undisturbed(search.results(), reference(1), search.trials, server.database)
