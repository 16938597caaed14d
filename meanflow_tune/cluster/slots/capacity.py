"""How many slots the hosts of a cluster hold, now and when it has grown."""

from collections.abc import Callable
from dataclasses import dataclass

import ray
from ray._private.state import state as cluster_state

from meanflow_tune.cluster.layout import Layout


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
