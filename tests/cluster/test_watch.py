"""What the driver does about each slot, with a cluster that is made up."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from meanflow_tune.cluster.broker import Broker
from meanflow_tune.cluster.errors import SlotsLost
from meanflow_tune.cluster.slots import watch
from meanflow_tune.cluster.slots.spec import SlotSpec
from meanflow_tune.cluster.slots.supervisor import cause_of, pause_after


class Group:
    """A placement group; its id is itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = self

    def hex(self) -> str:
        return self.name


@dataclass
class Cluster:
    """Owner of the groups, broker, and Ray: the processors of each host, and what the slots were told."""

    hosts: dict[str, int]
    now: float = 0.0
    held: dict[str, str] = field(default_factory=dict)  # group -> host, "" while it waits
    ended: dict[str, Exception | None] = field(default_factory=dict)  # run -> how
    said: list[tuple[Any, ...]] = field(default_factory=list)
    slots: dict[str, dict[str, Any]] = field(default_factory=dict)
    made: int = 0
    awaited: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)

    # the owner
    def free_leftovers(self) -> list[str]:
        return []

    def reserve(self, slot: str, workers: int, resources: dict[str, float]) -> Group:
        self.made += 1
        self.held[f"{slot}/{self.made}"] = ""
        return Group(f"{slot}/{self.made}")

    def await_placement(self, groups: list[Group], seconds: float) -> None:
        assert 0.0 < seconds <= 1.0
        self.awaited = [group.name for group in groups]

    def free(self, group: Group) -> None:
        self.held.pop(group.name, None)

    def places(self) -> dict[str, tuple[bool, dict[str, str]]]:
        for name, host in self.held.items():
            if host not in self.hosts:
                used = list(self.held.values())
                free = [h for h, cpus in self.hosts.items() if used.count(h) < cpus]
                self.held[name] = free[0] if free and not host else ""
        return {n: (bool(h), {h: h} if h else {}) for n, h in self.held.items()}

    # the broker
    def send(self, method: Callable[..., Any], *arguments: Any) -> None:
        self.said.append((method.__name__, *arguments))

    # Ray
    def wait(self, runs: list[str], **_: Any) -> tuple[list[str], list[str]]:
        return [run for run in runs if run in self.ended], []

    def get(self, run: str) -> None:
        error = self.ended[run]
        if error is not None:
            raise error

    def kill(self, actor: str) -> None:
        self.killed.append(actor)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": host, "Alive": True} for host in self.hosts]

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 0.0}

    def said_of(self, slot: str, method: Any) -> list[tuple[Any, ...]]:
        return [s[2:] for s in self.said if s[0] == method.__name__ and s[1] == slot]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster({"a": 1, "b": 1})
    # The names in the module, not the modules: other threads use those.
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: made.now))
    calls = ("wait", "get", "kill", "nodes", "available_resources")
    ours = {name: getattr(made, name) for name in calls}
    monkeypatch.setattr(watch, "ray", SimpleNamespace(**ours, exceptions=ray.exceptions))
    monkeypatch.setattr(
        watch, "start_supervisor", lambda slot, spec, group: (slot, f"run {group.name}")
    )
    return made


def slots(cluster: Cluster, patient: bool = False, most: int = 9) -> watch.Slots:
    def wanted() -> int:
        return most if patient else max(1, min(most, sum(cluster.hosts.values())))

    spec = SlotSpec(cluster, 1, {"CPU": 1.0}, b"")  # type: ignore[arg-type]
    made = watch.Slots(spec, wanted, cluster, patient)  # type: ignore[arg-type]
    made.__enter__()
    return made


def tick(cluster: Cluster, made: watch.Slots, seconds: float = 1.0, **unusable: str) -> None:
    cluster.now += seconds
    made.tick({"slots": cluster.slots, "unusable": unusable})


def meet(cluster: Cluster, *names: str) -> None:
    """The ranks of these slots have started, and call."""
    for name in names:
        known = cluster.slots.get(name, {"starts": 0})
        cluster.slots[name] = {"starts": known["starts"] + 1, "silent_s": 0.0, "state": "ready"}


def running(cluster: Cluster, count: int = 2) -> watch.Slots:
    made = slots(cluster)
    tick(cluster, made)
    meet(cluster, *(f"slot-{k}" for k in range(count)))
    tick(cluster, made)
    assert made.count == count
    return made


def test_slots_start_at_once_and_together(cluster: Cluster) -> None:
    """Before the first tick, which comes when Ray Tune has been imported and runs."""
    slots(cluster)
    assert cluster.awaited == ["slot-0/1", "slot-1/2"]
    for name, host in (("slot-0", "a"), ("slot-1", "b")):
        assert cluster.said_of(name, Broker.slot_state)[-1] == ("starting", "", [host])


def test_a_silent_slot_starts_again_while_others_run(cluster: Cluster) -> None:
    made = running(cluster)
    cluster.slots["slot-1"]["silent_s"] = watch.SILENCE_SECONDS + 1
    tick(cluster, made)
    (fault,) = cluster.said_of("slot-1", Broker.slot_fault)
    assert fault == ("b", "its ranks were silent for 121 s", "starts again in 1 s")
    assert cluster.killed == ["slot-1"]
    assert cluster.said_of("slot-0", Broker.slot_fault) == []
    tick(cluster, made)
    tick(cluster, made)
    assert cluster.said_of("slot-1", Broker.slot_state)[-1] == ("starting", "", ["b"])
    assert made.count == 2


def test_ranks_that_never_meet_are_given_up_with_a_growing_pause(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOST_SECONDS", 1e9)
    made = slots(cluster, most=1)
    for pause in (1.0, 2.0, 4.0):
        tick(cluster, made)
        tick(cluster, made, watch.START_SECONDS + 1)
        _, cause, action = cluster.said_of("slot-0", Broker.slot_fault)[-1]
        assert cause == "its ranks did not start within 300 s"
        assert action == f"starts again in {pause:.0f} s"
        assert cluster.held == {}, "nothing is held during the pause"
        if pause < 4.0:
            tick(cluster, made, pause)
            assert len(cluster.held) == 1
    assert pause_after(99) == 60.0


def test_a_slot_that_has_run_starts_again_at_once_however_often_its_hosts_were_lost(
    cluster: Cluster,
) -> None:
    made = running(cluster)
    for _ in range(4):
        cluster.slots["slot-1"]["silent_s"] = watch.SILENCE_SECONDS + 1
        tick(cluster, made)
        assert cluster.said_of("slot-1", Broker.slot_fault)[-1][2] == "starts again in 1 s"
        tick(cluster, made)
        tick(cluster, made)
        meet(cluster, "slot-1")
        tick(cluster, made)


def test_a_supervisor_that_gives_up_or_dies_is_replaced(cluster: Cluster) -> None:
    made = running(cluster)
    runs = [f"run {name}" for name in cluster.held]
    cause = RuntimeError("its ranks did not start: disk (3 times in a row)")
    cluster.ended[runs[0]] = ray.exceptions.RayTaskError("run", "", cause)
    cluster.ended[runs[1]] = ray.exceptions.ActorDiedError()
    tick(cluster, made)
    assert cluster.said_of("slot-0", Broker.slot_fault)[0][1] == str(cause)
    lost = "its supervisor's process or host was lost"
    assert cluster.said_of("slot-1", Broker.slot_fault)[0][1] == lost
    tick(cluster, made)
    tick(cluster, made)
    assert len(cluster.held) == 2
    assert not {f"run {name}" for name in cluster.held} & set(runs)


def test_a_lost_host_shrinks_the_number_and_a_new_one_adds_a_slot(cluster: Cluster) -> None:
    made = running(cluster)
    del cluster.hosts["b"]
    tick(cluster, made)
    assert cluster.said_of("slot-1", Broker.slot_fault)[0][:2] == ("b", "host b was lost")
    tick(cluster, made, 2.0)
    assert cluster.said_of("slot-1", Broker.slot_state)[-1][0] == "waiting"
    assert made.count == 1
    tick(cluster, made, watch.RECOUNT_SECONDS)
    assert cluster.said_of("slot-1", Broker.slot_state)[-1][:2] == (
        "ended",
        "no host is left for it",
    )
    cluster.hosts |= {"c": 2}
    tick(cluster, made, watch.RECOUNT_SECONDS)
    tick(cluster, made)
    assert made.count == 3
    assert {s[1] for s in cluster.said if s[0] == "slot_state" and s[2] == "starting"} == {
        f"slot-{k}" for k in range(4)
    }


def test_a_cluster_that_grows_is_waited_for_and_another_is_not(cluster: Cluster) -> None:
    cluster.hosts.clear()
    waiting = slots(cluster, patient=True, most=2)
    for _ in range(3):
        tick(cluster, waiting, watch.LOST_SECONDS)
    assert len(cluster.held) == 2, "its demand"
    assert waiting.count == 0
    assert cluster.said_of("slot-0", Broker.slot_state)[-1][:2] == ("waiting", "1 CPU on any host")
    cluster.held.clear()
    refused = slots(cluster)
    tick(cluster, refused, watch.LOST_SECONDS)
    with pytest.raises(
        SlotsLost, match=r"no slot has run for 601 s; a slot needs 1 CPU on any host"
    ):
        tick(cluster, refused, 1.0)


def test_slots_that_cannot_load_the_code_end_the_search(cluster: Cluster) -> None:
    made = running(cluster)
    for name in list(cluster.held):
        cluster.ended[f"run {name}"] = None
    with pytest.raises(SlotsLost, match="every slot has ended: No module named x"):
        tick(cluster, made, **{"slot-0": "No module named x", "slot-1": "No module named x"})


class WorkerGroupFailed(Exception):
    """As Ray Train raises it."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("Training failed due to worker errors: …")
        self.worker_failures = failures


class HealthCheckFailed(Exception):
    def __init__(self, failure: Exception) -> None:
        super().__init__("A worker health check failed.")
        self.health_check_failure = failure


class ControllerFailed(Exception):
    def __init__(self, failure: Exception) -> None:
        super().__init__("Training failed due to controller error: …")
        self.controller_failure = failure


def test_what_ended_the_ranks_in_words() -> None:
    died = HealthCheckFailed(ray.exceptions.ActorDiedError())
    peer = RuntimeError("Connection closed by peer")
    assert cause_of(WorkerGroupFailed({0: peer, 1: died})) == ("the process of rank 1 died", True)
    assert cause_of(WorkerGroupFailed({0: KeyError("x")})) == ("rank 0: KeyError: 'x'", False)
    gloo = ray.exceptions.RayTaskError("f", "…", RuntimeError("Gloo connectFullMesh failed"))
    assert cause_of(ControllerFailed(gloo)) == (
        "a rank: RuntimeError: Gloo connectFullMesh failed",
        True,
    )
