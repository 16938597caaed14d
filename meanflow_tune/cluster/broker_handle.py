"""The broker as a Ray actor, and typed calls of it from every process of a search."""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from meanflow_tune.cluster.broker import Broker
from meanflow_tune.cluster.errors import BrokerLost
from meanflow_tune.cluster.job_queue import MAX_RETRIES

P = ParamSpec("P")
R = TypeVar("R")
Method = Callable[Concatenate[Broker, P], Coroutine[Any, Any, R]]


class BrokerHandle:
    """The broker's actor. A call names the method as `Broker.method`, so that its type is checked."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def send(self, method: Method[P, R], *arguments: P.args, **keywords: P.kwargs) -> Any:
        """Call without waiting; returns a reference for `ray.get`."""
        return getattr(self._actor, method.__name__).remote(*arguments, **keywords)

    def call(self, method: Method[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """Call and wait for the result. Raises RayError."""
        return self.call_within(None, method, *arguments, **keywords)

    def call_within(
        self,
        seconds: float | None,
        method: Method[P, R],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> R:
        """Call and wait at most `seconds`. Raises RayError, such as GetTimeoutError."""
        result: R = ray.get(self.send(method, *arguments, **keywords), timeout=seconds)
        return result


@contextmanager
def explaining_loss() -> Iterator[None]:
    """Raise BrokerLost in the place of what Ray raises where the broker has ended."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise BrokerLost(
            "the broker, the actor on this host that hands out trials, has ended "
            f"({type(error).__name__}); nothing was lost but work since the last rungs. If Ray has ended "
            "on this host, start it again"
        ) from error


def start_broker(max_retries: int = MAX_RETRIES) -> BrokerHandle:
    """The broker as an actor on the driver's host: it lives and dies with the search."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_concurrency=1000)(Broker)
    return BrokerHandle(actor.options(scheduling_strategy=here).remote(max_retries))
