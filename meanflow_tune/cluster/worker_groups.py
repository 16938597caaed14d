"""WorkerGroups: long-lived Ray Train runs whose worker processes serve one trial after another.

Starting a worker group costs 20 s of imports, a trial in a running one 0.2 s; so groups stay.
"""

import importlib
import logging
import os
import shutil
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import ray

from meanflow_tune.cluster import signals
from meanflow_tune.cluster.errors import SlotsLost
from meanflow_tune.cluster.session import leave_running
from meanflow_tune.cluster.worker import Serve, serve_slot

# Restarts of one slot's processes, over the whole search; a job has its own, smaller limit.
MAX_RESTARTS = 100
# Helpers of Ray Train that a slot has no use for; a process of 3 s start-up time and 200 MB each.
_UNUSED = frozenset({"DatasetsCallback", "WorkingDirectorySetupCallback"})
# Needed only where the cluster outlives the driver (it frees what a killed driver had reserved).
_UNUSED_LOCALLY = frozenset({"PlacementGroupCleanerCallback"})

logger = logging.getLogger(__name__)


class WorkerGroups:
    """`count` worker groups of `workers` ranks each.

    resources_per_worker: e.g. {"CPU": 1.0}; storage: a folder that every host sees; serve: see
    `rank.Serve`, as "module:function" or a callable; local: the cluster ends with this process.
    Use as a context manager, or call `start` and `stop`.
    """

    def __init__(
        self,
        broker: Any,
        count: int,
        workers: int,
        resources_per_worker: dict[str, float],
        use_gpu: bool,
        storage: Path | str,
        serve: str | Serve,
        local: bool = True,
    ) -> None:
        if count < 1 or workers < 1:
            raise ValueError(f"`count, workers >= 1` must hold, but got ({count=}, {workers=})")
        self._broker, self._count, self._workers = broker, count, workers
        self._resources, self._use_gpu = dict(resources_per_worker), use_gpu
        self._folder = Path(storage).absolute() / "slots" / uuid.uuid4().hex[:8]
        self._serve, self._local = serve, local
        self._threads: dict[str, threading.Thread] = {}
        self._errors: dict[str, str] = {}
        self._started = 0.0

    @property
    def names(self) -> list[str]:
        return [f"slot-{i}" for i in range(self._count)]

    def start(self) -> None:
        """Begin to start all slots; returns once Ray Train is imported."""
        # Here, since its circular imports fail when two threads make them at the same time.
        for module in ("ray.train.torch", "ray.tune"):
            importlib.import_module(module)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        for name in self.names:
            # A thread here instead of a task of Ray: one process of 5 s start-up time less a slot.
            thread = threading.Thread(target=self._run, args=(name,), name=name, daemon=True)
            self._threads[name] = thread
            thread.start()

    def wait_until_up(self, timeout: float = 300.0, count: int = 1) -> float:
        """Seconds until `count` slots were up.

        Raises SlotsLost when they all end first or the time is over.
        """
        while time.monotonic() - self._started < timeout:
            snapshot = ray.get(self._broker.snapshot.remote())
            if len(snapshot["slots"]) >= count:
                return time.monotonic() - self._started
            self.check(snapshot)
            time.sleep(0.2)
        raise SlotsLost(
            f"{count} of {self._count} slots should be up after {timeout:.0f} s, but "
            f"{len(snapshot['slots'])} are. Each needs {self._workers} x {self._resources}; the "
            f"cluster has {free_resources()} free. Ask for fewer workers or resources."
        )

    def check(self, snapshot: dict[str, Any], patience: float = 600.0) -> None:
        """Raises SlotsLost when nobody is left who could run a job.

        snapshot: the broker's; patience: seconds in which slots may come back.
        """
        causes = {**snapshot["broken"], **self._errors}
        running = [n for n, t in self._threads.items() if t.is_alive() and n not in causes]
        if not running:
            raise SlotsLost(f"every slot has ended: {_summary(causes)}")
        silent = [snapshot["slots"][n]["silent_s"] for n in running if n in snapshot["slots"]]
        silence = min(silent, default=time.monotonic() - self._started)
        if silence > patience:
            raise SlotsLost(
                f"no slot has answered for {silence:.0f} s; a slot needs {self._workers} x "
                f"{self._resources} and the cluster has {free_resources()} free"
            )

    def stop(self, timeout: float = 20.0) -> None:
        """Let the slots end, jobs at a safe point, and remove what Ray Train wrote."""
        deadline = time.monotonic() + timeout
        try:
            try:
                ray.get(self._broker.close.remote(), timeout=timeout)
            except ray.exceptions.RayError as error:
                logger.debug("broker is gone: %s", error)
            for thread in self._threads.values():
                thread.join(max(0.0, deadline - time.monotonic()))
        finally:  # a Ctrl-C may come while this waits
            leave_running(self._threads.values())
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "WorkerGroups":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A second Ctrl-C waits for nothing: the end of the session ends the processes.
        self.stop(0.0 if kind is not None and issubclass(kind, KeyboardInterrupt) else 20.0)

    def _run(self, name: str) -> None:
        try:
            self._trainer(name).fit()
        except Exception as error:
            self._errors[name] = f"{type(error).__name__}: {error}"
            logger.debug("slot %s ended", name, exc_info=True)

    def _trainer(self, name: str) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.train.v2._internal.execution.callback import WorkerGroupCallback

        unused = _UNUSED | (_UNUSED_LOCALLY if self._local else frozenset())

        class SlotTrainer(TorchTrainer):
            def _create_default_callbacks(self) -> list[Any]:
                made = super()._create_default_callbacks()
                return [c for c in made if type(c).__name__ not in unused]

        class ListenForNotice(WorkerGroupCallback):
            def after_worker_group_start(self, worker_group: Any) -> None:
                worker_group.execute(signals.listen_for_notice)

        return SlotTrainer(
            serve_slot,
            train_loop_config={"mailbox": self._broker, "slot": name, "serve": self._serve},
            scaling_config=ScalingConfig(
                num_workers=self._workers,
                use_gpu=self._use_gpu,
                resources_per_worker=self._resources,
            ),
            run_config=RunConfig(
                name=name,
                storage_path=os.fspath(self._folder),
                failure_config=FailureConfig(max_failures=MAX_RESTARTS),
                callbacks=[ListenForNotice()],
            ),
        )


def free_resources() -> dict[str, float]:
    """CPUs and GPUs that nobody has reserved, over all hosts."""
    free = ray.available_resources()
    return {kind: free.get(kind, 0.0) for kind in ("CPU", "GPU")}


def _summary(causes: dict[str, str]) -> str:
    lines = {cause.strip().splitlines()[-1] for cause in causes.values() if cause.strip()}
    return "; ".join(sorted(lines)) or "no cause was given"
