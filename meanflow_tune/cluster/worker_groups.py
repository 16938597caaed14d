"""WorkerGroups: long-lived Ray Train runs whose worker processes run one trial after another.

Starting a worker group takes 20 s of imports, starting a trial in a running one 0.2 s.
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
from ray import cloudpickle

from meanflow_tune.cluster import signals
from meanflow_tune.cluster.broker import Broker
from meanflow_tune.cluster.broker_handle import BrokerHandle
from meanflow_tune.cluster.errors import SlotsLost
from meanflow_tune.cluster.session import leave_running
from meanflow_tune.cluster.worker import run_worker
from meanflow_tune.records import RunJob

# Restarts of one slot's processes during the whole search; a job has its own, smaller limit.
MAX_RESTARTS = 100
SILENCE_SECONDS = 600.0  # within which a slot may come back
# Helpers of Ray Train that a slot does not need; each is a process of 200 MB that takes 3 s to start.
_UNUSED = frozenset({"DatasetsCallback", "WorkingDirectorySetupCallback"})
# Needed only where the cluster outlives the driver (it frees what a killed driver had reserved).
_UNUSED_LOCALLY = frozenset({"PlacementGroupCleanerCallback"})

logger = logging.getLogger(__name__)


class WorkerGroups:
    """`count` slots of `workers` ranks each; a context manager.

    resources_per_worker: e.g. {"CPU": 1.0}; storage: a folder that every host sees; run_job: must be
    picklable; local: the cluster ends with this process.
    """

    def __init__(
        self,
        broker: BrokerHandle,
        count: int,
        workers: int,
        resources_per_worker: dict[str, float],
        use_gpu: bool,
        storage: Path | str,
        run_job: RunJob,
        local: bool = True,
    ) -> None:
        if count < 1 or workers < 1:
            raise ValueError(f"`count, workers >= 1` must hold, but got ({count=}, {workers=})")
        self._broker, self._count, self._workers = broker, count, workers
        self._resources, self._use_gpu = dict(resources_per_worker), use_gpu
        self._folder = Path(storage).absolute() / "slots" / uuid.uuid4().hex[:8]
        # Loaded by the workers alone, which can say why that fails.
        self._run_job, self._local = cloudpickle.dumps(run_job), local
        self._threads: dict[str, threading.Thread] = {}
        self._errors: dict[str, str] = {}
        self._started = 0.0

    def __enter__(self) -> "WorkerGroups":
        """Start all slots in the background; returns once Ray Train is imported."""
        # Here, since its circular imports fail when two threads make them at the same time.
        for module in ("ray.train.torch", "ray.tune"):
            importlib.import_module(module)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        for name in (f"slot-{i}" for i in range(self._count)):
            # A thread instead of a Ray task saves a process with 5 s of start-up time per slot.
            thread = threading.Thread(target=self._run, args=(name,), name=name, daemon=True)
            self._threads[name] = thread
            thread.start()
        return self

    def check(self, snapshot: dict[str, Any]) -> None:
        """Raises SlotsLost when no slot is left to run a job. snapshot: the broker's."""
        causes = {**snapshot["unusable"], **self._errors}
        running = [n for n, t in self._threads.items() if t.is_alive() and n not in causes]
        if not running:
            raise SlotsLost(f"every slot has ended: {_summary(causes)}")
        silent = [snapshot["slots"][n]["silent_s"] for n in running if n in snapshot["slots"]]
        silence = min(silent, default=time.monotonic() - self._started)
        if silence > SILENCE_SECONDS:
            raise SlotsLost(
                f"no slot has answered for {silence:.0f} s; a slot needs {self._workers} x "
                f"{self._resources} and the cluster has {free_resources()} free"
            )

    def stop(self, timeout: float = 20.0) -> None:
        """Let jobs end at a safe point, then the slots; remove Ray Train's files."""
        deadline = time.monotonic() + timeout
        try:
            try:
                self._broker.call_within(timeout, Broker.close)
            except ray.exceptions.RayError as error:
                logger.debug("the broker has ended: %s", error)
            for thread in self._threads.values():
                thread.join(max(0.0, deadline - time.monotonic()))
        finally:  # a Ctrl-C may come while this waits
            leave_running(self._threads.values())
        shutil.rmtree(self._folder, ignore_errors=True)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A second Ctrl-C does not wait: the end of the session ends the processes.
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
            run_worker,
            train_loop_config={"broker": self._broker, "slot": name, "run_job": self._run_job},
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
    """Unreserved CPUs and GPUs of all hosts."""
    free = ray.available_resources()
    return {kind: free.get(kind, 0.0) for kind in ("CPU", "GPU")}


def _summary(causes: dict[str, str]) -> str:
    lines = {cause.strip().splitlines()[-1] for cause in causes.values() if cause.strip()}
    return "; ".join(sorted(lines)) or "no cause was given"
