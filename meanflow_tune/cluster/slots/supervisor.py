"""The supervisor of a slot: an actor on the host of its first rank, which restarts its ranks."""

import logging
import socket
import time
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from meanflow_tune.cluster.broker import Broker
from meanflow_tune.cluster.faults import one_cause
from meanflow_tune.cluster.process_use import host_label
from meanflow_tune.cluster.slots.spec import SlotSpec

# Starts in a row that may fail before the slot gives up its hosts: they may be the cause.
FAILED_STARTS = 3
SHORT_LIFE = 10.0  # ranks that die sooner after they met did not start either
LONGEST_PAUSE = 60.0

logger = logging.getLogger(__name__)


class StartFailed(RuntimeError):
    """The ranks of a slot did not come up, several times in a row."""


def pause_after(failures: int) -> float:
    """Seconds before the next start after so many failed ones in a row."""
    return min(2.0 ** (failures - 1), LONGEST_PAUSE) if failures else 0.0


class Supervisor:
    """Runs the ranks of one slot in the placement group that the driver holds for it."""

    def __init__(self, slot: str, spec: SlotSpec, group: PlacementGroup) -> None:
        self._slot, self._spec, self._group = slot, spec, group
        self._failures = 0
        self._met: float | None = None  # when its ranks last met

    def run(self) -> None:
        """Run until the broker closes. Raises StartFailed where these hosts cannot be used."""
        # Ray Train takes 4 s to import; the driver does without it.
        from meanflow_tune.cluster.slots.trainer import run_ranks

        while True:
            self._met = None
            try:
                run_ranks(self._slot, self._spec, self._group, self._has_met)
                return
            except Exception as error:
                logger.warning("the ranks of %s ended", self._slot, exc_info=True)
                self._tell(error)
            time.sleep(pause_after(self._failures))

    def _has_met(self) -> None:
        self._met = time.monotonic()

    def _tell(self, error: Exception) -> None:
        """Tell the broker why the ranks ended. Raises StartFailed for the last of several failed starts."""
        cause, fault = cause_of(error)
        starting = self._met is None
        if starting:
            cause = f"its ranks did not start: {cause}"
        short = self._met is not None and time.monotonic() - self._met < SHORT_LIFE
        self._failures = self._failures + 1 if starting or (fault and short) else 0
        if self._failures >= FAILED_STARTS:
            raise StartFailed(f"{cause} ({self._failures} times in a row)") from None
        pause = pause_after(self._failures)
        action = f"restarts in {pause:.0f} s" if pause else "restarts at once"
        call = self._spec.broker.call
        here = host_label(socket.gethostname(), ray.util.get_node_ip_address())
        if starting or fault:
            call(Broker.slot_fault, self._slot, here if starting else "", cause, action)
        call(Broker.slot_state, self._slot, "restarting", f"{cause}; {action}")


def start_supervisor(slot: str, spec: SlotSpec, group: PlacementGroup) -> tuple[Any, Any]:
    """The actor, and the reference of its `run`. `group` must be placed."""
    place = PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=0, placement_group_capture_child_tasks=False
    )
    remote = ray.remote(num_cpus=0, max_restarts=0)(Supervisor)
    actor = remote.options(scheduling_strategy=place).remote(slot, spec, group)
    return actor, actor.run.remote()


def cause_of(error: BaseException) -> tuple[str, bool]:
    """What ended the ranks, in one line, and whether it was the machine: a process that died or hangs,
    not an exception of the job, which the job's own outcome tells.
    """
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return _in_words("a rank", _innermost(error)), True
    dead = {r: e for r, e in failures.items() if "HealthCheck" in type(e).__name__}
    rank, first = next(iter((dead or failures).items()))
    return _in_words(f"rank {rank}", _innermost(first)), bool(dead)


def _innermost(error: BaseException) -> BaseException:
    """What Ray has wrapped, several times."""
    for name in ("controller_failure", "health_check_failure", "_base_exc", "cause", "__cause__"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            return _innermost(inner)
    return error


def _in_words(who: str, error: BaseException) -> str:
    if isinstance(error, ray.exceptions.RayActorError):
        return f"the process of {who} died"
    return one_cause(f"{who}: {type(error).__name__}: {error}")
