"""One run of Ray Train: the ranks of a slot, in the placement group that the driver holds for it.

Ray Train's controller lives in the calling process instead of its own actor, and the placement
group is the driver's instead of the controller's. So whatever ends the ranks also ends `run_ranks`,
with an exception, and leaves nothing behind: Ray Train itself skips its clean-up where a callback fails
while the processes start, and its next attempt then waits for what the first one holds.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import fsspec
import pyarrow.fs
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    DefaultPlacementGroupHandle,
)
from ray.util.placement_group import PlacementGroup

from meanflow_tune.cluster import signals
from meanflow_tune.cluster.preflight import HostNeeds
from meanflow_tune.cluster.slots.rendezvous import use_own_interface
from meanflow_tune.cluster.slots.spec import SlotSpec
from meanflow_tune.cluster.slots.store_address import listen_on_one_address
from meanflow_tune.cluster.worker import run_worker

# Parts of Ray Train that a slot does not need; some are processes of 200 MB that take 3 s to start. The
# cleaner of placement groups would guard those of a controller that is killed; ours are the driver's.
_UNUSED = frozenset(
    {"DatasetsCallback", "WorkingDirectorySetupCallback", "PlacementGroupCleanerCallback"}
)


def run_ranks(
    name: str, spec: SlotSpec, group: PlacementGroup, on_start: Callable[[], None]
) -> None:
    """Start the ranks of a slot in `group`, and run them until the broker closes.

    on_start: called once all ranks have met. Raises what ended the ranks; then none of them is left.
    """
    started: list[_SlotGroup] = []
    try:
        _SlotTrainer(name, spec, group, on_start, started).fit()
    finally:
        for ranks in started:
            ranks.kill()


class _Held(DefaultPlacementGroupHandle):
    def shutdown(self) -> None:
        """The driver removes it."""


class _SlotGroup(WorkerGroup):
    """group: the placement group to use; started: where each instance is noted."""

    group: PlacementGroup
    started: "list[_SlotGroup]"

    def _create_placement_group(self, *_: Any) -> _Held:
        self.started.append(self)
        return _Held(self.group)

    def shutdown(self) -> None:
        status = self.get_latest_poll_status()
        if status is None or status.errors:
            # A rank has died, or waits in native code for one that has: there is nothing to wait for.
            self.kill()
        else:
            super().shutdown()

    def kill(self) -> None:
        """End all processes of the group at once. Idempotent."""
        state = self._worker_group_state
        if state is not None:
            for worker in state.workers:
                ray.kill(worker.actor)
            ray.kill(state.sync_actor)
            self._clear_state()


class _SlotTrainer(TorchTrainer):
    def __init__(
        self,
        name: str,
        spec: SlotSpec,
        group: PlacementGroup,
        on_start: Callable[[], None],
        started: list[_SlotGroup],
    ) -> None:
        self._on_start, self._needs = on_start, spec.needs
        self._group_class = type("SlotGroup", (_SlotGroup,), {"group": group, "started": started})
        memory = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fsspec.filesystem("memory")))
        super().__init__(
            run_worker,
            train_loop_config={"broker": spec.broker, "slot": name, "run_job": spec.run_job},
            scaling_config=ScalingConfig(
                num_workers=spec.workers,
                use_gpu=spec.resources.get("GPU", 0.0) > 0,
                resources_per_worker=spec.resources,
            ),
            run_config=RunConfig(
                name=name,
                # Ray's checkpoints are not used, so that nothing has to lie on a disk.
                storage_path="slots",
                storage_filesystem=memory,
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            ),
        )

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()
        used = [c for c in made if type(c).__name__ not in _UNUSED]
        return [_BeforeMeeting(self._needs), *used, _AfterMeeting(self._on_start)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        arguments["scaling_policy"] = _NoDemand(self.scaling_config)
        controller = _controller_class(self._group_class)(**arguments)
        asyncio.run(controller.run())
        return controller.get_result()


def _controller_class(group_class: type[_SlotGroup]) -> type[TrainController]:
    return type("SlotController", (TrainController,), {"worker_group_cls": group_class})


class _NoDemand(FixedScalingPolicy):
    """Asks no autoscaler, by an actor that would outlive the search: the placement group does."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class _BeforeMeeting(WorkerGroupCallback):
    """Before the ranks make their process group."""

    def __init__(self, needs: HostNeeds | None) -> None:
        self._needs = needs

    def after_worker_group_start(self, worker_group: Any) -> None:
        if self._needs is not None:
            worker_group.execute(self._needs.check_here)
        worker_group.execute(use_own_interface)
        worker_group.execute(listen_on_one_address)


class _AfterMeeting(WorkerGroupCallback):
    def __init__(self, on_start: Callable[[], None]) -> None:
        self._on_start = on_start

    def after_worker_group_start(self, worker_group: Any) -> None:
        worker_group.execute(signals.listen_for_notice)

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        self._on_start()
