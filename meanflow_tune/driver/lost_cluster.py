"""A cluster that cannot be reached at the start, or ends during the search, as errors of the command."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn

from meanflow_tune.cluster.connection.address import check_reachable
from meanflow_tune.cluster.errors import BrokerLost, ClusterError, ClusterLost
from meanflow_tune.driver.output import say
from meanflow_tune.driver.status_writer import StatusWriter
from meanflow_tune.plan.request import EXIT_UNUSABLE, SearchRequest, UserError
from meanflow_tune.report.live import View

Abandon = Callable[[UserError], NoReturn]


def check_cluster(request: SearchRequest) -> None:
    """Raises UserError unless a head answers where the request's cluster is, or comes up in time."""
    if request.cluster is None:
        return
    try:
        check_reachable(request.cluster, request.wait_for_cluster, say)
    except ValueError as error:
        raise UserError(f"--cluster {request.cluster}: {error}.") from None
    except ClusterError as error:
        waited = request.wait_for_cluster is not None
        raise UserError(str(error), EXIT_UNUSABLE, repeat=waited) from None


def first_words(request: SearchRequest) -> str:
    """What a user is told before Ray is up."""
    if request.cluster is None:
        return "starting Ray and the workers"
    return "joining the Ray cluster and starting the workers"


def lost(error: ClusterLost | BrokerLost) -> UserError:
    """What a user is told of a cluster that is lost, or must be joined again."""
    return UserError(str(error), EXIT_UNUSABLE, repeat=True, lost=True)


def abandon(
    error: ClusterLost,
    release: Callable[[], None],
    view: View,
    status: StatusWriter,
    end: Abandon | None,
) -> None:
    """End a search, and by `end` its process, while the main thread is stuck inside Ray.

    release: gives the lease back; end: None where there is no process to end, as in a test.
    """
    if end is None:
        return
    for call in (status.end, partial(view.log, f"ended: {error}"), view.close, release):
        with suppress(Exception):  # the process ends in any case
            call()
    end(lost(error))
