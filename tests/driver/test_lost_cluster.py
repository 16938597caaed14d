"""What a user is told of a cluster that ends during a search."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from meanflow_tune.cluster.errors import BrokerLost, ClusterError, ClusterLost
from meanflow_tune.driver.lost_cluster import abandon, first_words, lost
from meanflow_tune.plan.request import EXIT_UNUSABLE, UserError


@pytest.mark.parametrize("error", [ClusterLost("head"), BrokerLost("broker")])
def test_both_are_waited_for_where_the_user_wants_it(error: ClusterLost | BrokerLost) -> None:
    told = lost(error)
    assert (str(told), told.status) == (str(error), EXIT_UNUSABLE)
    assert told.lost
    assert told.repeat


def test_a_search_that_is_abandoned_says_so_in_its_log() -> None:
    """The main thread is stuck inside Ray, so that `SearchLog.run` never ends."""
    calls: list[str] = []
    view: Any = SimpleNamespace(log=calls.append, close=lambda: calls.append("closed"))
    status: Any = SimpleNamespace(end=lambda: calls.append("status"))
    ended: list[UserError] = []
    release = lambda: calls.append("released")  # noqa: E731
    abandon(ClusterLost("no answer"), release, view, status, cast(Any, ended.append))
    assert calls == ["status", "ended: no answer", "closed", "released"]
    assert [str(error) for error in ended] == ["no answer"]
    assert issubclass(BrokerLost, ClusterError)


def test_joining_is_not_called_starting() -> None:
    local: Any = SimpleNamespace(cluster=None)
    joined: Any = SimpleNamespace(cluster="")
    assert first_words(local) == "starting Ray and the workers"
    assert first_words(joined) == "joining the Ray cluster and starting the workers"
