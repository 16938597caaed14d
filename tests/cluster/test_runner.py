"""Searches over slots on a private Ray: real worker groups, a stand-in for the training."""

import importlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune import this_machine
from meanflow_tune.cluster.broker import Broker
from meanflow_tune.cluster.connection import local_ray, session
from meanflow_tune.cluster.errors import HostUnfit, SlotsLost
from meanflow_tune.records import Outcome, RunJob
from tests.support.paths import SET_UP_FAULTS
from tests.support.processes.fake_training import run_job
from tests.support.processes.toy_director import ToyDirector

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(800)]


@pytest.fixture(scope="module")
def set_up_fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that says how the next rank fails while it starts, see `set_up_faults`."""
    return tmp_path_factory.mktemp("fault") / "what"


@pytest.fixture(scope="module", autouse=True)
def ray_session(set_up_fault: Path) -> Iterator[session.Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SET_UP_FAULT", str(set_up_fault))
        patch.setenv("PYTHONPATH", str(SET_UP_FAULTS), prepend=os.pathsep)
        with local_ray.start_local(cpus=4) as started:
            yield started


def search(
    director: ToyDirector,
    folder: Path,
    count: int,
    workers: int,
    run_job: RunJob = run_job,
    retries: int = 2,
) -> None:
    from meanflow_tune.cluster.tuner import run_search

    with slots(folder, count, workers, run_job, retries) as (broker, watch):
        run_search(director, broker, folder, "toy", watch)
    assert placement_groups() == []
    assert not (folder / "slots").exists()
    assert [p.name for p in (folder / "tune").iterdir()] == []


@contextmanager
def slots(
    folder: Path, count: int, workers: int, run_job: RunJob = run_job, retries: int = 2
) -> Iterator[tuple[Any, Any]]:
    """A broker, and `count` slots of `workers` ranks."""
    from meanflow_tune.cluster.broker_handle import start_broker
    from meanflow_tune.cluster.slots.owner import Owner
    from meanflow_tune.cluster.slots.spec import SlotSpec
    from meanflow_tune.cluster.slots.watch import Slots

    broker = start_broker(max_retries=retries)
    spec = SlotSpec.of(broker, workers, {"CPU": 1.0}, run_job)
    with Slots(spec, lambda: count, Owner(folder, epoch=1)) as watch:
        yield broker, watch


def placement_groups() -> list[str]:
    """Reservations that are still held."""
    from ray.util import placement_group_table

    return [i for i, g in placement_group_table().items() if g["state"] != "REMOVED"]


def test_two_slots_run_six_jobs(tmp_path: Path) -> None:
    configs: list[dict[str, Any]] = [{"x": float(i), "rungs": 3} for i in range(6)]
    configs[2]["fail"] = "raise"
    configs[4]["x"] = float("nan")
    # Ray Tune takes "/" in the keys of a config apart, and refuses this pair.
    configs[5] |= {"time_sampler": "beta", "time_sampler/beta/a": 2.0}
    director = ToyDirector(configs, tmp_path, lambda number, images: (number, images) != (1, 200))
    search(director, tmp_path, count=2, workers=1)
    status = {n: o.status for n, o in director.outcomes.items()}
    assert status == {n: {1: "pruned", 2: "failed"}.get(n, "completed") for n in range(6)}
    assert director.outcomes[2].deterministic
    assert "the step was not finite" in director.outcomes[2].reason
    assert {n: sorted(r) for n, r in director.reports.items()} == {
        0: [100, 200, 300],
        1: [100, 200],
        3: [100, 200, 300],
        4: [100, 200, 300],
        5: [100, 200, 300],
    }


@pytest.mark.parametrize(
    "what, cause",
    [("kill", "the process of a rank died"), ("raise", "a rank: RuntimeError: Gloo connectFull")],
)
def test_a_rank_that_fails_while_its_slot_starts_costs_a_restart(
    tmp_path: Path, set_up_fault: Path, what: str, cause: str
) -> None:
    """One slot with all processors: what its first start held must be free for the second."""
    set_up_fault.write_text(what)
    seen: list[dict[str, Any]] = []
    director = ToyDirector([{"x": 0.0, "rungs": 1}], tmp_path, on_tick=seen.append)
    search(director, tmp_path, count=1, workers=4)
    assert not set_up_fault.exists()
    assert director.outcomes[0].status == "completed"
    (fault,) = {f["index"]: f for snapshot in seen for f in snapshot["faults"]}.values()
    assert fault["slot"] == "slot-0"
    assert fault["cause"].startswith(f"its ranks did not start: {cause}")
    assert fault["action"] == "the slot restarts in 1 s"


def test_two_ranks_survive_a_killed_rank_and_a_raising_one(tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_rank_1(number: int, images: int) -> bool:
        if (number, images) == (1, 200) and not killed:
            killed.append(int((director.folder(1) / "pid-1-0").read_text()))
            os.kill(killed[0], signal.SIGKILL)
        return True

    configs: list[dict[str, Any]] = [{"x": 0.0, "rungs": 4, "seconds": 0.2} for _ in range(4)]
    configs[2]["fail"] = "raise"
    snapshots: list[dict[str, Any]] = []
    director = ToyDirector(configs, tmp_path, kill_rank_1, snapshots.append)
    search(director, tmp_path, count=1, workers=2)
    assert killed
    faults = [fault for snapshot in snapshots for fault in snapshot["faults"]]
    (fault,) = [fault for fault in faults if fault["number"] == 1]
    assert "restarts from 200 images on the next free slot" in fault["action"]
    assert fault["host"]
    assert len({fault["index"] for fault in faults}) == len(faults), "each is handed out once"
    beats = [s["slots"]["slot-0"]["ranks"] for s in snapshots if "slot-0" in s["slots"]]
    assert {tuple(ranks) for ranks in beats} >= {(0, 1)}
    memory = [rank["memory"] for ranks in beats for rank in ranks.values() if "memory" in rank]
    assert memory
    assert min(memory) > 2**20
    status = [director.outcomes[n].status for n in range(4)]
    assert status == ["completed", "completed", "failed", "completed"]
    # Rank 1 raised; rank 0, which waited for it, is not taken for the cause.
    assert director.outcomes[2].reason.startswith("ArithmeticError")
    assert (director.folder(1) / "pid-1-1").exists()
    for number in (0, 1, 3):
        totals = [r.metrics["total@1"] for r in director.reports[number].values()]
        assert totals == [3.0] * 4


def test_relays_that_are_killed_cost_no_trial(tmp_path: Path) -> None:
    """Also if that happens more often than Tune restarts a trial."""
    from ray._private.state import actors

    from meanflow_tune.cluster.tuner import _RELAY_RETRIES

    killed: list[int] = []

    def decide(number: int, images: int) -> bool:
        for actor in actors().values() if len(killed) <= _RELAY_RETRIES else ():
            if actor["ActorClassName"] == "Relays" and actor["Pid"] not in {0, *killed}:
                with suppress(ProcessLookupError):  # it starts again
                    os.kill(actor["Pid"], signal.SIGKILL)
                    killed.append(actor["Pid"])
        return True

    configs: list[dict[str, Any]] = [{"x": 0.0, "rungs": 8, "seconds": 0.5} for _ in range(3)]
    director = ToyDirector(configs, tmp_path, decide)
    search(director, tmp_path, count=2, workers=1)
    assert len(killed) > _RELAY_RETRIES
    assert {n: o.status for n, o in director.outcomes.items()} == dict.fromkeys(
        range(3), "completed"
    )
    rungs = [100 * rung for rung in range(1, 9)]
    assert {n: sorted(r) for n, r in director.reports.items()} == dict.fromkeys(range(3), rungs)


def test_a_search_that_was_stopped_leaves_its_slots_to_the_next(tmp_path: Path) -> None:
    """A time budget ends the search, and its confirmation begins in the same slots at once."""
    from meanflow_tune.cluster.tuner import run_search

    class Budget:
        requested = False

    budget = Budget()

    def decide(number: int, images: int) -> bool:
        budget.requested = images >= 200
        return True

    long = [{"x": 0.0, "rungs": 1000, "seconds": 0.2} for _ in range(3)]
    first = ToyDirector(long, tmp_path / "first", decide)
    short = [{"x": 0.0, "rungs": 3, "seconds": 0.5} for _ in range(2)]
    second = ToyDirector(short, tmp_path / "second")
    with slots(tmp_path, 1, 2) as (broker, watch):
        run_search(first, broker, tmp_path, "first", watch, budget)
        broker.call(Broker.begin_search)
        run_search(second, broker, tmp_path, "second", watch)
    assert {n: o.status for n, o in first.outcomes.items()} == {0: "running"}
    assert {n: o.status for n, o in second.outcomes.items()} == {0: "completed", 1: "completed"}


def test_a_rank_without_memory_tells_it_and_hangs_nobody(tmp_path: Path) -> None:
    """Not a failure to retry, on two ranks as on one; the other rank waits in a collective."""
    configs: list[dict[str, Any]] = [{"x": 0.0, "rungs": 2} for _ in range(3)]
    configs[1]["fail"] = "memory"
    for workers in (2, 1):
        folder = tmp_path / str(workers)
        folder.mkdir()
        director = ToyDirector(configs, folder)
        search(director, folder, count=1, workers=workers)
        status = [director.outcomes[n].status for n in range(3)]
        assert status == ["completed", "out_of_memory", "completed"]
        short = director.outcomes[1]
        assert "8.00 TiB" in short.reason
        memory = this_machine.memory()
        assert memory is not None
        assert short.violation == pytest.approx(8 * 2**40 / memory)
        assert not (director.folder(1) / "pid-0-1").exists(), "it was not restarted"
    # One rank alone frees its memory and continues.
    pids = {(director.folder(n) / "pid-0-0").read_text() for n in range(3)}
    assert len(pids) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_rank_with_notice_saves_its_job_which_is_restarted(tmp_path: Path, workers: int) -> None:
    """SIGTERM to one process, as a spot instance gets it; no retry is counted (there is none here)."""
    noticed: list[int] = []

    def give_notice(number: int, images: int) -> bool:
        if (number, images) == (0, 200) and not noticed:
            noticed.append(int((director.folder(0) / f"pid-{workers - 1}-0").read_text()))
            os.kill(noticed[0], signal.SIGTERM)
        return True

    configs: list[dict[str, Any]] = [{"x": 0.0, "rungs": 6, "seconds": 1.0}]
    director = ToyDirector(configs, tmp_path, give_notice)
    search(director, tmp_path, count=1, workers=workers, retries=0)
    assert noticed
    assert director.outcomes[0].status == "completed"
    assert sorted(director.reports[0]) == [100, 200, 300, 400, 500, 600]
    first, second = ((director.folder(0) / f"pid-{workers - 1}-{n}").read_text() for n in range(2))
    assert first != second, "the process that was to go took nothing more"
    assert not (director.folder(0) / "pid-0-2").exists()


def test_an_error_of_the_director_ends_the_search(tmp_path: Path) -> None:
    class Fenced(RuntimeError):
        pass

    def decide(number: int, images: int) -> bool:
        raise Fenced("another driver has taken over")

    director = ToyDirector([{"x": 0.0, "rungs": 1}], tmp_path, decide)
    with pytest.raises(Fenced, match="taken over"):
        search(director, tmp_path, count=1, workers=1)
    assert director.outcomes == {}


class Unloadable:
    """Pickled as a module that the workers do not have."""

    def __call__(self, *_: Any) -> Outcome:
        raise AssertionError

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, ("no_such_module",)


def test_code_that_cannot_be_loaded_ends_the_search(tmp_path: Path) -> None:
    director = ToyDirector([{"x": 0.0, "rungs": 1}], tmp_path)
    with pytest.raises(SlotsLost, match="no_such_module"):
        search(director, tmp_path, count=1, workers=1, run_job=Unloadable())


def test_too_much_is_asked_for() -> None:
    from meanflow_tune.cluster.preflight import check_resources

    has = {"CPU": 4.0}
    check_resources(has, 2, 2, {"CPU": 1.0})
    with pytest.raises(HostUnfit, match=r"3 slots of 2 workers.*need 6.*has 4 CPU"):
        check_resources(has, 3, 2, {"CPU": 1.0})
    with pytest.raises(
        HostUnfit, match=r"A slot of 5 workers.* needs 5, .*Lower --workers-per-trial"
    ):
        check_resources(has, 1, 5, {"CPU": 1.0})
