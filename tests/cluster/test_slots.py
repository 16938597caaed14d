"""Slots on a Ray cluster whose hosts come and go, and what a search leaves there."""

import gc
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.cluster.connection import session
from meanflow_tune.cluster.layout import Layout
from tests.support.processes.fake_training import run_job
from tests.support.processes.nodes import Nodes, nodes
from tests.support.processes.toy_director import ToyDirector

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(800)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes(tmp_path_factory.mktemp("nodes")) as started:
        started.start_head("--num-cpus=1")
        with session.join(started.address):
            yield started


class Growth:
    """Adds a host once a trial runs, and cuts its power once a trial runs there; then lets all end."""

    def __init__(self, cluster: Nodes, folder: Path) -> None:
        config = {"x": 0.0, "rungs": 4, "seconds": 1.0}
        self.director = ToyDirector([config] * 50, folder, on_tick=self.tick)
        self.cluster, self.stage = cluster, "one host"
        self.seen: list[dict[str, Any]] = []
        self.counts: list[int] = []
        self.watch: Any = None

    def tick(self, snapshot: dict[str, Any]) -> None:
        self.seen.append(snapshot)
        self.counts.append(self.watch.count)
        second = snapshot["slots"].get("slot-1", {"state": "none"})
        if self.stage == "one host" and self.director.reports:
            self.cluster.add("--num-cpus=1")
            self.stage = "two hosts"
        elif self.stage == "two hosts" and second["state"] == "running":
            self.cluster.kill(1)
            self.stage = "power cut"
        elif self.stage == "power cut" and second["state"] == "ended":
            self.director.handed = 50
            self.stage = "end"


def test_slots_follow_the_hosts_and_nothing_is_left(cluster: Nodes, tmp_path: Path) -> None:
    shared_memory = ours_in_shared_memory()
    from meanflow_tune.cluster.broker_handle import start_broker
    from meanflow_tune.cluster.preflight import HostNeeds
    from meanflow_tune.cluster.slots.capacity import Capacity
    from meanflow_tune.cluster.slots.owner import Owner
    from meanflow_tune.cluster.slots.spec import SlotSpec
    from meanflow_tune.cluster.slots.watch import Slots
    from meanflow_tune.cluster.tuner import run_search

    capacity = Capacity.of_cluster()
    assert not capacity.grows
    growth = Growth(cluster, tmp_path)
    needs = HostNeeds.of_driver(tmp_path)
    spec = SlotSpec.of(start_broker(), 1, {"CPU": 1.0}, run_job, needs)
    wanted = capacity.slots(Layout(1, 1, 1.0, 0.0), max_concurrent=8)
    with Slots(spec, wanted, Owner(tmp_path, epoch=1)) as growth.watch:
        run_search(growth.director, spec.broker, tmp_path, "toy", growth.watch)
    assert growth.stage == "end"
    # One at a time, then two, then one again.
    assert [
        n for n, last in zip(growth.counts, [0, *growth.counts], strict=False) if n != last
    ] in (
        [1, 2, 1],
        [1, 2, 1, 2, 1],  # it had been counted again before Ray knew that the host was lost
    )
    assert {o.status for o in growth.director.outcomes.values()} == {"completed"}
    assert all(sorted(r) == [100, 200, 300, 400] for r in growth.director.reports.values())
    faults = {f["index"]: f for snapshot in growth.seen for f in snapshot["faults"]}
    assert any("lost" in f["cause"] and f["slot"] == "slot-1" for f in faults.values()), faults
    last = growth.seen[-1]["slots"]["slot-1"]
    assert last["detail"] == "no host is left for it"
    del spec, growth  # the broker's last handles
    gc.collect()
    assert left_on_cluster() == ([], [])
    assert not (tmp_path / "slots").exists()
    assert list((tmp_path / "tune").iterdir()) == []
    assert ours_in_shared_memory() <= shared_memory


def left_on_cluster() -> tuple[list[str], list[str]]:
    """Names of placement groups that are held, and classes of actors that live."""
    from ray._private.state import actors
    from ray.util import placement_group_table

    groups = [g["name"] for g in placement_group_table().values() if g["state"] != "REMOVED"]
    deadline = time.monotonic() + 20.0
    while True:  # an actor of a driver that has gone ends within seconds
        alive = [a["ActorClassName"] for a in actors().values() if a["State"] != "DEAD"]
        if not alive or time.monotonic() > deadline:
            return groups, alive
        time.sleep(0.2)


def ours_in_shared_memory() -> set[str]:
    """Files there as torch, NCCL and Python make them; other programs of this machine make others."""
    kinds = ("torch_", "nccl-", "psm_", "sem.", "pym-")
    return {name for name in os.listdir("/dev/shm") if name.startswith(kinds)}


def test_the_next_driver_of_a_study_frees_what_an_earlier_one_holds(
    cluster: Nodes, tmp_path: Path
) -> None:
    """Of a driver that is dead, Ray frees it; of one that is suspended, it does not."""
    from ray.util import placement_group_table

    from meanflow_tune.cluster.slots.owner import Owner

    suspended, other = Owner(tmp_path / "a", epoch=1), Owner(tmp_path / "b", epoch=1)
    held = suspended.reserve("slot-0", 1, {"CPU": 0.5})
    theirs = other.reserve("slot-0", 1, {"CPU": 0.5})
    assert Owner(tmp_path / "a", epoch=1).free_leftovers() == []
    (name,) = Owner(tmp_path / "a", epoch=12).free_leftovers()
    assert name.endswith("/1/slot-0")
    table = placement_group_table()
    assert table[held.id.hex()]["state"] == "REMOVED"
    assert table[theirs.id.hex()]["state"] != "REMOVED"
    other.free(theirs)


def test_the_processes_of_two_hosts_meet_or_both_are_named(cluster: Nodes) -> None:
    from meanflow_tune.cluster.errors import HostUnfit
    from meanflow_tune.cluster.slots.rendezvous import check_meeting

    cluster.add("--num-cpus=1")
    check_meeting()
    with pytest.MonkeyPatch.context() as patch:
        # As a user would set it, wrongly.
        patch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
        cluster.add("--num-cpus=1")
    with pytest.raises(HostUnfit) as caught:
        check_meeting()
    text = str(caught.value)
    assert re.match(
        r"the ranks of a trial on the hosts \S+ \(\S+\) and \S+ \(\S+\) cannot meet", text
    )
    assert "no-such-interface" in text
    assert "GLOO_SOCKET_IFNAME" in text
