"""Runner: starts or joins Ray, checks its hosts, starts slots, and runs one search after another."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from meanflow_tune import this_machine
from meanflow_tune.cluster.broker import Broker
from meanflow_tune.cluster.connection.head_watch import Abandon, HeadWatch, WatchedStop
from meanflow_tune.cluster.connection.local_ray import start_local
from meanflow_tune.cluster.connection.session import join
from meanflow_tune.cluster.errors import HostUnfit
from meanflow_tune.cluster.layout import Layout, plan_layout
from meanflow_tune.cluster.signals import Interrupt, Stop
from meanflow_tune.records import Director, RunJob

if TYPE_CHECKING:  # they import Ray, which must not happen before `start` has set its variables
    from meanflow_tune.cluster.broker_handle import BrokerHandle
    from meanflow_tune.cluster.slots.watch import Slots

# Ray's own files; nothing that a search needs lies there.
RAY_FOLDER = ".ray"


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runner:
    """Made by `start`. description: what was started, in words."""

    broker: "BrokerHandle"
    watch: "Slots"
    layout: Layout
    storage: Path
    description: str
    head: HeadWatch

    @property
    def slots(self) -> int:
        """Trials at once, as it is now."""
        return max(1, self.watch.count)

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
        study: Path,
        epoch: int,
        interrupt: Interrupt,
        run_job: RunJob,
        example: dict[str, Any] | None = None,
        verbose: bool = False,
        require_token: bool = False,
        wait_for_cluster: float | None = None,
        abandon: Abandon | None = None,
        warn: Callable[[str], None] = logger.warning,
        reached: Callable[[str], None] = lambda stage: None,
        modules: Mapping[str, Path] = MappingProxyType({}),
        reach: Callable[[], None] | None = None,
    ) -> Iterator["Runner"]:
        """cluster: an address, "" for RAY_ADDRESS or this host's cluster, None for a private Ray.

        study, epoch: its folder, and that of the lease of this driver, which frees what earlier drivers
        hold. run_job: what slots do with a job; must be picklable. example: a configuration, whose data set
        every host of a cluster must have. warn: gets a line where memory may run out, a host is doubtful, or
        the cluster is open to others; reached: the stages of the start. require_token, wait_for_cluster: see
        `join`; abandon: see `HeadWatch`. modules: files of this host that run_job needs, see
        `shipping.stage`. reach: called on each host, raises where it cannot reach the storage; None for a
        storage that is a folder.

        Raises ClusterError where the cluster or one of its hosts cannot be used.
        """
        reached("Ray is asked for")
        with ExitStack() as stack:
            local = cluster is None
            if local:
                # A private Ray counts at least what one trial needs, so that one always fits.
                cpus = max(this_machine.processors(), math.ceil(workers * cpus_per_worker))
                gpus = _private_gpus(workers, gpus_per_worker)
                session = stack.enter_context(start_local(cpus, gpus, verbose, modules))
            else:
                session = stack.enter_context(
                    join(cluster or None, verbose, require_token, wait_for_cluster, modules, warn)
                )
            reached("Ray is up")
            for note in session.notes:
                warn(note)
            head = session.watch_head(abandon)
            stack.enter_context(head.explaining())
            stack.enter_context(interrupt)
            from meanflow_tune.cluster.broker_handle import start_broker
            from meanflow_tune.cluster.preflight import HostNeeds, check_hosts, check_resources
            from meanflow_tune.cluster.slots.capacity import await_room
            from meanflow_tune.cluster.slots.owner import Owner
            from meanflow_tune.cluster.slots.rendezvous import check_meeting
            from meanflow_tune.cluster.slots.spec import SlotSpec
            from meanflow_tune.cluster.slots.watch import Slots

            given = workers, cpus_per_worker, gpus_per_worker
            patience = 0.0 if local else wait_for_cluster or 0.0
            capacity = await_room(
                lambda most: plan_layout(most, *given, 1), patience, interrupt, warn
            )
            memory = this_machine.memory() if local else None
            layout = plan_layout(capacity.most, *given, max_concurrent, memory)
            # Hosts may join a cluster later, and after a fault of its head they do.
            count = (max_concurrent if local else None) or 1
            check_resources(capacity.most, count, workers, layout.resources)
            if layout.warning:
                warn(layout.warning)
            if not local:
                check_hosts(storage, example, warn, shared=reach is None)
                if workers > 1:
                    check_meeting(tuple(layout.resources))
            broker = start_broker()
            needs = None if local else HostNeeds.of_driver(study, reach)
            spec = SlotSpec.of(broker, workers, layout.resources, run_job, needs)
            wanted: Callable[[], int] = partial(int, layout.slots)  # one host does not change
            if not local:
                wanted = capacity.slots(layout, max_concurrent)
                layout = replace(layout, slots=wanted())
                if layout.slots < (max_concurrent or 1):
                    warn(
                        f"--max-concurrent {max_concurrent}: the hosts of the cluster hold "
                        f"{layout.slots} at once now; further trials start as hosts join"
                    )
            watch = Slots(spec, wanted, Owner(study, epoch), capacity.grows)
            stack.enter_context(watch)
            reached("slots are asked for")
            where = "Ray on this machine" if local else f"Ray cluster at {session.address}"
            yield cls(broker, watch, layout, storage, f"{where}: {layout}", head)

    def search(self, director: Director, name: str, interrupt: Stop) -> None:
        """Run `director`'s trials until it is exhausted or `interrupt` was requested."""
        from meanflow_tune.cluster.broker_handle import explaining_loss
        from meanflow_tune.cluster.tuner import run_search

        # "+" is in no study's name, so that no two searches have one label.
        folder, label = self.storage / RAY_FOLDER, name.replace("/", "+")
        stop = WatchedStop(interrupt, self.head)
        with self.head.explaining():
            with explaining_loss():
                self.broker.call(Broker.begin_search)
            run_search(director, self.broker, folder, label, self.watch, stop)


def _private_gpus(workers: int, gpus_per_worker: float | None) -> int:
    """GPUs that a private Ray hands out. Raises HostUnfit where a trial cannot use them."""
    if this_machine.slices() and workers > 1 and gpus_per_worker != 0:
        raise HostUnfit(
            "CUDA_VISIBLE_DEVICES names slices of GPUs (MIG), of which CUDA shows a process one only, so "
            f"that the {workers} ranks of a trial cannot train together; give --workers-per-trial 1, or "
            "--gpus-per-worker 0"
        )
    return this_machine.gpus()
