"""A search on hosts whose Ray takes only those who know its token."""

import secrets
from collections.abc import Callable, Iterator

import pytest

from tests.support.hosts.namespaces import open_bed
from tests.support.hosts.paced_search import PacedSearch, Results, assert_undisturbed
from tests.support.hosts.ray_hosts import RayHosts

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def closed() -> Iterator[RayHosts]:
    """Two hosts of their own with a token, whose workers are supervised."""
    with open_bed(2) as bed:
        cluster = RayHosts(bed, token=secrets.token_hex(32))
        cluster.start()
        yield cluster


def test_a_search_with_the_token(closed: RayHosts, reference: Callable[[int], Results]) -> None:
    search = PacedSearch(closed, options=("--require-token",))
    closed.set_pace(0.0)
    search.start(closed.bed.hosts[0])
    search.finish()
    assert_undisturbed(search.results(), reference(1), search.trials)


def test_a_search_without_the_token_is_refused(closed: RayHosts) -> None:
    search = PacedSearch(closed)
    stranger = RayHosts(closed.bed, head=closed.head)  # RAY_AUTH_MODE=disabled
    search.cluster = stranger
    driver = search.start(closed.bed.hosts[0])
    assert driver.wait(60.0) == 5, driver.said()
    message = driver.said().splitlines()[-2]  # the last one is the command
    assert "asks for a token, but RAY_AUTH_MODE=disabled is set here" in message, driver.said()
