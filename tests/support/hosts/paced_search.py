"""A search of fixed configurations on a cluster of hosts, whose pace and end a test decides."""

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from meanflow_tune.search.store.trials import current_name
from tests.support.hosts.namespaces import Bed, Host, HostProcess, wait_until
from tests.support.hosts.ray_hosts import RayHosts
from tests.support.hosts.traces import ALIVE_SECONDS, Rank, ranks, training

HERE = Path(__file__).parent
STUDY = "fixed_space"
SLOW = 1.0  # seconds per step: a trial outlasts a fault, and `finish` waits for one step at most
WAITING = "waiting for MLflow"
START_SECONDS = 300.0
END_SECONDS = 300.0
SENDING_SECONDS = (
    900.0  # until MLflow has what a fast end left; beside other work it takes two events per second
)
_count = itertools.count()


def command(storage: Path, trials: int, *options: str) -> list[str]:
    """The command line of a search over the fixed configurations."""
    words = [sys.executable, str(HERE / "paced.py"), f"--space={HERE / 'fixed_space.py'}"]
    words += [f"--storage={storage}", f"--trials={trials}", "--scheduler=none", "--confirm=0"]
    return [*words, *options]


def undisturbed(bed: Bed, host: Host, trials: int, workers: int) -> "Results":
    """The results of a run on one host, with a Ray of its own, that nothing happens to."""
    storage = bed.shared / f"undisturbed-{workers}"
    words = command(storage, trials, f"--workers-per-trial={workers}", "--max-concurrent=1")

    def start() -> HostProcess:
        # A log of its own each time.
        return host.start(words, f"{storage.name}-{next(_count)}", HOSTS_TRIALS=str(trials))

    delivered(start, 600.0)
    return Results(storage)


def delivered(start: Callable[[], HostProcess], seconds: float) -> HostProcess:
    """The command, once it has ended well. Where MLflow was slower than it, it is repeated until MLflow has
    all, as the driver says. seconds: for each time.
    """
    deadline = time.monotonic() + seconds + SENDING_SECONDS
    while True:
        run = start()
        status = run.wait(seconds)
        assert status == 0, f"status {status}\n{run.said()}"
        if WAITING not in run.said():
            return run
        assert time.monotonic() < deadline, run.said()


@dataclass
class PacedSearch:
    """A search on the cluster. slots: trials at once, None for as many as fit; options: further ones of the
    command.
    """

    cluster: RayHosts
    trials: int = 12
    slots: int | None = 2
    workers: int = 1
    options: tuple[str, ...] = ()
    driver: HostProcess | None = None
    driver_host: Host | None = None
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.cluster.bed.shared / f"search{next(_count)}"
        self.folder.mkdir()

    @property
    def hosts(self) -> list[Host]:
        return self.cluster.bed.hosts

    @property
    def storage(self) -> Path:
        return self.folder / "runs"

    def start(self, host: Host, *options: str) -> HostProcess:
        """Run the command on a host."""
        return self._start(host, f"--cluster={self.cluster.address}", *options)

    def start_alone(self, host: Host) -> HostProcess:
        """Run the command with a Ray of its own."""
        return self._start(host)

    def _start(self, host: Host, *options: str) -> HostProcess:
        words = [f"--workers-per-trial={self.workers}", *self.options, *options]
        if self.slots is not None:
            words.append(f"--max-concurrent={self.slots}")
        name = f"{self.folder.name}-driver{next(_count)}"
        settings = self.cluster.environment() | {"HOSTS_TRIALS": str(self.trials)}
        self.driver = host.start(command(self.storage, self.trials, *words), name, **settings)
        self.driver_host = host
        return self.driver

    def begin(self, host: Host, slots: int | None = None) -> None:
        """Start it at a slow pace; returns once every slot trains."""
        self.cluster.set_pace(SLOW)
        self.start(host)
        self.wait_for_slots(START_SECONDS, slots=slots)

    def hosts_of_ranks(self) -> set[str]:
        """Where ranks train, those beyond the first of a slot included."""
        now = time.time()
        return {r.host for r in ranks(self.cluster.trace) if now - r.seen < ALIVE_SECONDS}

    def training(self, gone: Callable[[Rank], bool] = lambda rank: False) -> list[Rank]:
        """The first ranks of the slots that train now."""
        return training(self.cluster.trace, gone)

    def wait_for_slots(
        self,
        seconds: float,
        gone: Callable[[Rank], bool] = lambda rank: False,
        slots: int | None = None,
    ) -> list[Rank]:
        """Until so many slots train (all of them), not counting ranks that are `gone`."""
        wanted = slots or self.slots
        assert wanted is not None
        found: list[Rank] = []

        def all_train() -> bool:
            assert self.driver is not None
            assert self.driver.poll() is None, f"the driver has ended\n{self.driver.said()[-5000:]}"
            found[:] = self.training(gone)
            return len(found) >= wanted

        wait_until(all_train, seconds, lambda: f"{wanted} slots; train: {found}\n{self.report()}")
        return found

    def recover(
        self, seconds: float, gone: Callable[[Rank], bool], since: float, slots: int | None = None
    ) -> float:
        """Seconds from a fault until all slots train again; `gone`: the ranks that it ended."""
        found = self.wait_for_slots(seconds, gone, slots)
        new = [rank for rank in found if rank.started > since]
        return (min(rank.seen for rank in new) if new else time.time()) - since

    def finish(self) -> None:
        """Let the rest go fast, and wait for the driver's good end, and until MLflow has all."""
        driver, host = self.driver, self.driver_host
        assert driver is not None
        assert host is not None
        self.cluster.set_pace(0.0)
        status = driver.wait(END_SECONDS)
        assert status == 0, f"status {status}\n{self.report()}"
        if WAITING in driver.said():
            delivered(lambda: self.start(host), END_SECONDS)

    def results(self) -> "Results":
        return Results(self.storage)

    def report(self) -> str:
        """What the driver said last, and the state of the cluster."""
        said = self.driver.said()[-4000:] if self.driver is not None else ""
        try:
            state: Any = self.cluster.census()
        except Exception as error:  # the head may be the fault
            state = error
        return f"{said}\n{state}"


@dataclass(frozen=True)
class Results:
    """What a search has stored, as a user reads it."""

    storage: Path

    def states(self) -> dict[int, str]:
        return {trial.number: trial.state.name for trial in self._study().trials}

    def values(self) -> dict[int, tuple[Any, ...]]:
        """Number -> parameters, value at each rung, final value."""
        return {
            trial.number: (trial.params, trial.intermediate_values, trial.values)
            for trial in self._study().trials
        }

    def table(self) -> pd.DataFrame:
        """The metrics of every trial and rung, without what depends on the clock."""
        frame = pd.read_parquet(self.storage / STUDY / "results.parquet")
        metrics = [name for name in frame.columns if "teacher_gap" in name]
        assert metrics, list(frame.columns)
        return frame.set_index(["number", "repeat", "rung"])[metrics].sort_index()

    def mlflow_histories(self, uri: str | None = None) -> dict[int, dict[str, list[Any]]]:
        """Trial -> metric -> (step, value) of every entry. Fails where a trial has two runs."""
        import mlflow

        client = mlflow.MlflowClient(uri or f"sqlite:///{self.storage / 'mlflow.db'}")
        experiment = client.get_experiment_by_name(STUDY)
        assert experiment is not None
        found: dict[int, dict[str, list[Any]]] = {}
        for run in client.search_runs([experiment.experiment_id], max_results=5000):
            name = str(run.data.tags.get("meanflow_tune.trial", ""))
            if name:
                number = int(name.rpartition("/")[2])
                assert number not in found, f"trial {number} has two MLflow runs"
                found[number] = {
                    key: sorted(
                        (m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)
                    )
                    for key in run.data.metrics
                    if "teacher_gap" in key
                }
        return found

    def _study(self) -> optuna.Study:
        journal = JournalStorage(JournalFileBackend(str(self.storage / STUDY / "study.journal")))
        return optuna.load_study(study_name=current_name(journal, STUDY), storage=journal)


def assert_undisturbed(
    found: Results, expected: Results, trials: int, uri: str | None = None
) -> None:
    """Nothing lost, nothing doubled, every value the same as in a run that nothing happened to."""
    numbers = range(trials)
    _assert_equal("states", found.states(), dict.fromkeys(numbers, "COMPLETE"))
    values = expected.values()
    _assert_equal("values", found.values(), {number: values[number] for number in numbers})
    table = found.table()
    assert not table.index.duplicated().any(), "a rung twice in the table"
    pd.testing.assert_frame_equal(table, expected.table().loc[list(numbers)], check_exact=True)
    logged = expected.mlflow_histories()
    wanted = {number: logged[number] for number in numbers}
    _assert_equal("metrics in MLflow", found.mlflow_histories(uri), wanted)


def _assert_equal(what: str, found: dict[int, Any], expected: dict[int, Any]) -> None:
    for number in sorted({*found, *expected}):
        mine, theirs = found.get(number), expected.get(number)
        assert mine == theirs, f"{what} of trial {number}: {mine}, undisturbed {theirs}"


def leftovers(search: PacedSearch, shared_memory: dict[str, set[str]]) -> list[str]:
    """What a search that has ended has left on the cluster; shared_memory: the files before it."""
    cluster = search.cluster
    state = cluster.census()
    found = [f"placement group {group}" for group in state["placement_groups"]]
    found += [f"actor {actor}" for actor in state["actors"]]
    if state["free"] != state["total"]:
        found.append(f"{state['free']} of {state['total']} processors are free")
    found += [str(path) for path in (search.storage / ".ray").glob("*/*")]
    for host in cluster.bed.hosts:
        if host.is_on:
            found += [
                f"{host.name}: {words}" for words in host.processes().values() if _of_search(words)
            ]
            new = {path.name for path in host.shared_memory.iterdir()}
            found += [
                f"{host.name}: /dev/shm/{x}" for x in new - shared_memory.get(host.name, set())
            ]
    return found


def _of_search(words: str) -> bool:
    """Whether a process belongs to a search: Ray keeps idle workers and agents."""
    if "paced.py" in words or "scripts/tune.py" in words:
        return True
    kept = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
    return words.startswith("ray::") and not words.startswith(kept)
