"""Runner: Ray started or joined, its hosts checked, slots up; runs one search after another."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from meanflow_tune.cluster.interrupt import Interrupt, Stop
from meanflow_tune.cluster.session import join, start_local

# Ray's own files; nothing that a search needs lies there.
RAY_FOLDER = ".ray"


@dataclass(frozen=True)
class Layout:
    """`slots` trials at once, each of `workers` ranks with `cpus` processors and `gpus` GPUs."""

    slots: int
    workers: int
    cpus: float
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """Of one rank."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return {kind: amount for kind, amount in wanted.items() if amount > 0}

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return (
            f"{self.slots} trial{'s' * (self.slots > 1)} at once, {self.workers} "
            f"rank{'s' * (self.workers > 1)} each with {self.cpus:g} CPU{gpus}"
        )


def plan_layout(
    total: dict[str, float],
    workers: int,
    cpus: float,
    gpus: float | None,
    max_concurrent: int | None,
) -> Layout:
    """What fits into the cluster's `total` resources.

    gpus None: one a rank where the cluster has enough for a trial, else none. Fewer slots than
    `max_concurrent` are never taken silently: `preflight.check_resources` refuses.
    """
    if gpus is None:
        gpus = 1.0 if total.get("GPU", 0.0) >= workers else 0.0
    fits = [math.floor(total.get("CPU", 0.0) / (workers * cpus) + 1e-9)]
    if gpus > 0:
        fits.append(math.floor(total.get("GPU", 0.0) / (workers * gpus) + 1e-9))
    return Layout(max_concurrent or max(1, min(fits)), workers, cpus, gpus)


class Runner:
    """Made by `start`. description: what was started, in words."""

    def __init__(self, mailbox: Any, slots: Any, layout: Layout, storage: Path, where: str) -> None:
        self._mailbox, self._slots = mailbox, slots
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

            from meanflow_tune.cluster.mailbox import start_mailbox
            from meanflow_tune.cluster.preflight import check_hosts, check_resources
            from meanflow_tune.cluster.slots import Slots

            total = ray.cluster_resources()
            layout = plan_layout(total, workers, cpus_per_worker, gpus_per_worker, max_concurrent)
            check_resources(layout.slots, workers, layout.resources)
            if not local:
                check_hosts(storage)
            mailbox = start_mailbox()
            slots = Slots(
                mailbox=mailbox,
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
            yield cls(mailbox, slots, layout, storage, where)

    def search(self, director: Any, name: str, interrupt: Stop) -> None:
        """Run `director`'s trials until it is exhausted or `interrupt` was requested."""
        import ray

        from meanflow_tune.cluster.tuner import run_search

        ray.get(self._mailbox.forget.remote())
        run_search(
            director,
            self._mailbox,
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
    from meanflow_tune.training.serve import serve_job

    return serve_job(job, rank, size, device, sink, cache=cache)
