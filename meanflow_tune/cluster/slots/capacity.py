"""How many slots the hosts of a cluster hold, now and when it has grown."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import ray
from ray._private.state import state as cluster_state

from meanflow_tune.cluster.layout import Layout
from meanflow_tune.cluster.signals import Stop

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Capacity:
    """most: resources that the cluster has or, where it `grows` by itself, can get."""

    most: dict[str, float]
    grows: bool

    @classmethod
    def of_cluster(cls) -> "Capacity":
        """Of the cluster that this process has joined. An autoscaler publishes its limits there."""
        now, limits = ray.cluster_resources(), cluster_state.get_max_resources_from_cluster_config()
        if not limits:
            return cls(now, False)
        most = {kind: max(now.get(kind, 0.0), limits.get(kind, 0.0)) for kind in {*now, *limits}}
        return cls(most, True)

    def slots(self, layout: Layout, max_concurrent: int | None) -> Callable[[], int]:
        """How many slots there should be, whenever it is called: as many as the present hosts hold, at
        most `max_concurrent`, at least one.

        Of a cluster that grows, `max_concurrent` at once: their placement groups are its demand.
        """

        def wanted() -> int:
            if self.grows and max_concurrent is not None:
                return max_concurrent
            fits = max(1, layout.fits(ray.cluster_resources()))
            return fits if max_concurrent is None else min(fits, max_concurrent)

        return wanted


def await_room(
    plan: Callable[[dict[str, float]], Layout],
    seconds: float,
    interrupt: Stop,
    say: Callable[[str], None],
    of_cluster: Callable[[], Capacity] = Capacity.of_cluster,
) -> Capacity:
    """The cluster's capacity once it holds the slot that is planned, or after `seconds`.

    After a fault of its head the hosts join it one after another. say: gets one line if it waits.
    Raises KeyboardInterrupt where the search is to stop meanwhile.
    """
    capacity, deadline, told = of_cluster(), time.monotonic() + seconds, False
    while (layout := plan(capacity.most)).fits(capacity.most) < 1 and time.monotonic() < deadline:
        if interrupt.requested:
            raise KeyboardInterrupt
        if not told:
            say(f"waiting up to {seconds:.0f} s for hosts that hold {layout}")
            told = True
        time.sleep(POLL_SECONDS)
        capacity = of_cluster()
    return capacity
