"""Slots: what the driver knows and does about the slots of a search. No thread, no process per slot.

Each slot has a placement group of the driver's, which holds the resources of its ranks (and which an
autoscaler sees as demand), and a supervisor on the host of its first rank. What the supervisor cannot
repair, such as its own death or a lost host, ends here: the placement group is removed, which ends all
that runs in it, and the slot starts again with another one.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

from meanflow_tune.cluster.broker import Broker
from meanflow_tune.cluster.errors import ClusterLost, SlotsLost
from meanflow_tune.cluster.faults import one_cause
from meanflow_tune.cluster.slots.owner import Owner
from meanflow_tune.cluster.slots.spec import SlotSpec
from meanflow_tune.cluster.slots.supervisor import pause_after, start_supervisor

# Within which ranks must have met; importing torch takes 20 s, on a loaded machine minutes.
START_SECONDS = 300.0
# Longer than `Broker.lost_after`, so that ranks which were only cut off can come back.
SILENCE_SECONDS = 120.0
LOST_SECONDS = 600.0  # without any slot, after which the search ends
RECOUNT_SECONDS = 5.0
PLACED_SECONDS = 1.0  # for the hosts that are there to give their resources

logger = logging.getLogger(__name__)


@dataclass
class _Slot:
    """group: None while it waits for its next start, which is `due` by `time.monotonic`.

    since: of its state. starts: how often the broker had seen its ranks start when they began to do so
    again. failures: starts in a row without ranks that met. nodes: of its ranks, id -> host's name.
    """

    name: str
    since: float
    group: PlacementGroup | None = None
    supervisor: Any = None
    run: Any = None
    state: str = "waiting"
    starts: int = 0
    failures: int = 0
    due: float = 0.0
    nodes: dict[str, str] = field(default_factory=dict)
    cause: str = ""

    @property
    def hosts(self) -> list[str]:
        return list(dict.fromkeys(self.nodes.values()))


class Slots:
    """A context manager. wanted: how many slots there should be now, asked again and again; None of its
    answers is below 1.

    patient: whether hosts may be on their way (an autoscaler), so that waiting for one is no fault.
    """

    def __init__(
        self,
        spec: SlotSpec,
        wanted: Callable[[], int],
        owner: Owner,
        patient: bool = False,
    ) -> None:
        self._spec, self._wanted, self._owner, self._patient = spec, wanted, owner, patient
        self._slots: dict[str, _Slot] = {}
        self._made = 0
        self._recounted = self._answered = float("-inf")

    def __enter__(self) -> "Slots":
        """Start all slots in the background."""
        self._answered = time.monotonic()
        self._owner.free_leftovers()
        self.tick({"slots": {}, "unusable": {}})
        # Not at the next tick: that comes when Tune runs, and ranks can start while the driver imports it.
        groups = [slot.group for slot in self._slots.values() if slot.group is not None]
        self._owner.await_placement(groups, PLACED_SECONDS)
        self._notice_places(time.monotonic())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, ClusterLost):
            return  # nothing is left to free, and every call of Ray would hang
        # A second Ctrl-C does not wait: the end of the session ends the processes.
        self.stop(0.0 if kind is not None and issubclass(kind, KeyboardInterrupt) else 20.0)

    @property
    def count(self) -> int:
        """Slots that have, or will have again, the resources for a trial."""
        # A copy: another thread asks as well.
        return sum(s.state not in ("waiting", "ended") for s in list(self._slots.values()))

    def tick(self, snapshot: Mapping[str, Any]) -> None:
        """Look after every slot; about once a second. snapshot: the broker's.

        Raises SlotsLost when no slot is left to run a job, or has been for a long time.
        """
        now = time.monotonic()
        self._recount(now)
        self._notice_ends(now, snapshot["unusable"])
        self._notice_places(now)
        for slot in self._slots.values():
            self._notice_answers(slot, now, snapshot["slots"].get(slot.name, {}))
            if slot.group is None and slot.state != "ended" and now >= slot.due:
                slot.group = self._owner.reserve(
                    slot.name, self._spec.workers, self._spec.resources
                )
                self._enter(slot, now, "waiting", self._waits_for(slot))
        self._check(now, snapshot["unusable"])

    def stop(self, timeout: float = 20.0) -> None:
        """Let jobs end at a safe point, then the slots; free all that they hold."""
        deadline = time.monotonic() + timeout
        try:
            self._spec.broker.call_within(timeout, Broker.close)
            runs = [s.run for s in self._slots.values() if s.run is not None]
            if runs:
                left = max(0.0, deadline - time.monotonic())
                ray.wait(runs, num_returns=len(runs), timeout=left, fetch_local=False)
        except ray.exceptions.RayError as error:
            logger.debug("the broker has ended: %s", error)
        finally:  # a Ctrl-C may come while this waits
            for slot in self._slots.values():
                self._free(slot)

    # ---- how many -------------------------------------------------------------------------

    def _recount(self, now: float) -> None:
        """Slots for hosts that have come; none any more for hosts that have gone."""
        if now - self._recounted < RECOUNT_SECONDS:
            return
        self._recounted = now
        wanted = self._wanted()
        for _ in range(wanted - len(self._slots)):
            slot = _Slot(f"slot-{self._made}", now)
            self._made += 1
            self._slots[slot.name] = slot
        for slot in [s for s in self._slots.values() if s.state == "waiting"][::-1]:
            if len(self._slots) > wanted:
                self._free(slot)
                del self._slots[slot.name]
                self._enter(slot, now, "ended", "no host is left for it")

    # ---- what happens to one --------------------------------------------------------------

    def _notice_ends(self, now: float, unusable: Mapping[str, str]) -> None:
        """Of supervisors: normal ones, and those that gave up or died."""
        running = {s.run: s for s in self._slots.values() if s.run is not None}
        if not running:
            return
        ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
        for run in ended:
            slot = running[run]
            try:
                ray.get(run)
            except ray.exceptions.RayTaskError as error:
                self._restart(slot, now, one_cause(str(error.cause)))
            except ray.exceptions.RayError:  # the list of hosts may lag behind
                cause = self._lost_hosts(slot) or "its supervisor's process or host was lost"
                self._restart(slot, now, cause)
            else:
                self._free(slot)
                self._enter(slot, now, "ended", one_cause(unusable.get(slot.name, "")))

    def _notice_places(self, now: float) -> None:
        """Of placement groups: those that have got their resources, and those that have lost a host."""
        held = {s.group.id.hex(): s for s in self._slots.values() if s.group is not None}
        places = self._owner.places() if held else {}
        for key, slot in held.items():
            if key not in places:
                continue
            placed, nodes = places[key]
            if placed and slot.run is None:
                slot.nodes = nodes
                slot.supervisor, slot.run = start_supervisor(slot.name, self._spec, slot.group)
                self._enter(slot, now, "starting")
            elif not placed and slot.run is not None:
                self._restart(slot, now, self._lost_hosts(slot) or "one of its hosts was lost")

    def _notice_answers(self, slot: _Slot, now: float, known: Mapping[str, Any]) -> None:
        """Of ranks: that they have met, that they never do, that they are silent."""
        starts, silence = known.get("starts", 0), known.get("silent_s", 0.0)
        if slot.state == "starting":
            if starts > slot.starts:
                slot.state, slot.since, slot.failures = "ready", now, 0
            elif now - slot.since > START_SECONDS:
                self._restart(slot, now, f"its ranks did not start within {START_SECONDS:.0f} s")
        elif slot.state != "ready":
            slot.starts = starts
        elif known.get("state") == "restarting":
            slot.state, slot.since, slot.starts = "starting", now, starts
        elif silence > SILENCE_SECONDS:
            self._restart(slot, now, f"its ranks were silent for {silence:.0f} s")
        if slot.state == "ready":
            self._answered = now

    def _restart(self, slot: _Slot, now: float, cause: str) -> None:
        """Free all that a slot holds, and start it again after a pause."""
        slot.failures += 1
        slot.cause = cause
        pause = pause_after(slot.failures)
        action = f"starts again in {pause:.0f} s"
        self._send(Broker.slot_fault, slot.name, ", ".join(slot.hosts), cause, action)
        self._free(slot)
        slot.due, slot.nodes = now + pause, {}
        self._enter(slot, now, "restarting", f"{cause}; {action}")

    def _free(self, slot: _Slot) -> None:
        """End its processes and give back their resources."""
        if slot.supervisor is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(slot.supervisor)
        if slot.group is not None:
            self._owner.free(slot.group)  # which ends whatever still runs in it
        slot.supervisor = slot.run = slot.group = None

    def _lost_hosts(self, slot: _Slot) -> str:
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        lost = [host for node, host in slot.nodes.items() if node not in alive]
        return f"host {', '.join(dict.fromkeys(lost))} was lost" if lost else ""

    def _waits_for(self, slot: _Slot) -> str:
        return f"{self._spec}; {slot.cause}" if slot.cause else str(self._spec)

    def _enter(self, slot: _Slot, now: float, state: str, detail: str = "") -> None:
        slot.state, slot.since = state, now
        self._send(Broker.slot_state, slot.name, state, detail, slot.hosts)

    def _send(self, method: Any, *arguments: Any) -> None:
        self._spec.broker.send(method, *arguments)

    def _check(self, now: float, unusable: Mapping[str, str]) -> None:
        alive = [s for s in self._slots.values() if s.state != "ended"]
        if not alive:
            raise SlotsLost(f"every slot has ended: {_summary(unusable.values())}")
        if self._patient and all(s.group is None or s.run is None for s in alive):
            return
        if now - self._answered > LOST_SECONDS:
            causes = [s.cause for s in alive] if any(s.cause for s in alive) else []
            raise SlotsLost(
                f"no slot has run for {now - self._answered:.0f} s"
                f"{f' ({_summary(causes)})' if causes else ''}; a slot needs {self._spec} and the cluster "
                f"has {free_resources()} free"
            )


def free_resources() -> dict[str, float]:
    """Unreserved CPUs and GPUs of all hosts."""
    free = ray.available_resources()
    return {kind: free.get(kind, 0.0) for kind in ("CPU", "GPU")}


def _summary(causes: Iterable[str]) -> str:
    lines = {cause.strip().splitlines()[-1] for cause in causes if cause.strip()}
    return "; ".join(sorted(lines)) or "no cause was given"
