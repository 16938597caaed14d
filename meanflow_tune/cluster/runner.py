"""Runner: Ray started or joined, its hosts checked, slots up; runs one search after another."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from meanflow_tune.cluster.layout import Layout, plan_layout
from meanflow_tune.cluster.session import join, start_local
from meanflow_tune.cluster.signals import Interrupt, Stop

# Ray's own files; nothing that a search needs lies there.
RAY_FOLDER = ".ray"


class Runner:
    """Made by `start`. description: what was started, in words."""

    def __init__(self, broker: Any, slots: Any, layout: Layout, storage: Path, where: str) -> None:
        self._broker, self._slots = broker, slots
        self._layout, self._storage = layout, storage
        self.description = f"{where}: {layout}"

    @property
    def slots(self) -> int:
        """Trials at once."""
        return self._layout.slots

    @classmethod
    @contextmanager
    def start(
        cls,
        *,
        cluster: str | None,
        workers: int,
        max_concurrent: int | None,
        cpus_per_worker: float,
        gpus_per_worker: float | None,
        storage: Path,
        interrupt: Interrupt,
        verbose: bool = False,
        serve: Any = None,
    ) -> Iterator["Runner"]:
        """cluster: an address, "" for RAY_ADDRESS or this host's cluster, None for a private Ray.

        serve: what slots do with a job (see `rank.Serve`), None to train it.

        Raises ClusterError where the cluster or one of its hosts cannot be used.
        """
        with ExitStack() as stack:
            local = cluster is None
            if local:
                # A private Ray counts at least what one trial needs, so that one always fits.
                cpus = max(os.cpu_count() or 1, math.ceil(workers * cpus_per_worker))
                session = stack.enter_context(start_local(cpus=cpus, verbose=verbose))
            else:
                session = stack.enter_context(join(cluster or None, verbose=verbose))
            stack.enter_context(interrupt)
            import ray

            from meanflow_tune.cluster.broker import start_broker
            from meanflow_tune.cluster.preflight import check_hosts, check_resources
            from meanflow_tune.cluster.worker_groups import WorkerGroups

            total = ray.cluster_resources()
            layout = plan_layout(total, workers, cpus_per_worker, gpus_per_worker, max_concurrent)
            check_resources(layout.slots, workers, layout.resources)
            if not local:
                check_hosts(storage)
            broker = start_broker()
            slots = WorkerGroups(
                broker=broker,
                count=layout.slots,
                workers=workers,
                resources_per_worker=layout.resources,
                use_gpu=layout.gpus > 0,
                storage=storage / RAY_FOLDER,
                serve=serve or partial(_serve, cache=str(storage / "teachers")),
                local=local,
            )
            stack.enter_context(slots)
            where = "Ray on this machine" if local else f"Ray cluster at {session.address}"
            yield cls(broker, slots, layout, storage, where)

    def search(self, director: Any, name: str, interrupt: Stop) -> None:
        """Run `director`'s trials until it is exhausted or `interrupt` was requested."""
        import ray

        from meanflow_tune.cluster.tuner import run_search

        ray.get(self._broker.forget.remote())
        run_search(
            director,
            self._broker,
            self._layout.slots,
            self._storage / RAY_FOLDER,
            name.replace("/", "-"),
            slots=self._slots,
            interrupt=interrupt,
        )


def _serve(
    job: dict[str, Any], rank: int, size: int, device: str, sink: Any, *, cache: str
) -> dict[str, Any]:
    """Runs in a slot; imports there what the driver does without."""
    from meanflow_tune.training.job import serve_job

    return serve_job(job, rank, size, device, sink, cache=cache)
