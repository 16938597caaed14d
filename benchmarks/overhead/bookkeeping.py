"""What the bookkeeping of a search costs: trials of simulated length, and a resume of many stored ones.

The driver is the real one, with its lease, journal on disk, sampler, rungs, outbox and status file;
Ray, the training and the tracking server are left out.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from benchmarks.overhead.copies import multiply
from meanflow_tune.driver.driver import Driver
from meanflow_tune.driver.stage import Stage
from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Job, Outcome, Report
from meanflow_tune.report.live import View
from meanflow_tune.search.store.lease import Lease

T = TypeVar("T")
SECONDS = 5.0  # of simulated training per trial that is not stopped early
STUDY = "bookkeeping"
EDGE = 100  # trials at the start and at the end of a search that are compared
PERIOD = 1.0  # simulated seconds between two writes of the status file


@dataclass
class Costs:
    """What the trials of a simulated search cost.

    seconds, processor: of bookkeeping, wall-clock and processor time by trial number; status: wall-clock
    seconds of the status file and the live view, summed; trained: simulated seconds of all trials;
    statuses: number of trials by status.
    """

    seconds: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    processor: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    status: float = 0.0
    trained: float = 0.0
    statuses: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, number: int, cost: tuple[float, float]) -> None:
        """Charge (wall-clock, processor) seconds to a trial."""
        self.seconds[number] += cost[0]
        self.processor[number] += cost[1]

    def summary(self) -> dict[str, float]:
        """Means over trials in order of their numbers; EDGE trials, or half of all, at each end."""
        count = len(self.seconds)
        edge = min(EDGE, count // 2)
        found: dict[str, float] = {"trials": count, "edge": edge}
        for name, costs in (("seconds", self.seconds), ("processor", self.processor)):
            found[f"{name} first"] = math.fsum(costs[n] for n in range(edge)) / edge
            found[f"{name} last"] = math.fsum(costs[n] for n in range(count - edge, count)) / edge
            found[f"{name} mean"] = math.fsum(costs.values()) / count
        mean = found["seconds mean"]
        return found | {
            "growth": found["seconds last"] / found["seconds first"],
            "processor growth": found["processor last"] / found["processor first"],
            "share": mean / SECONDS,
            "share of trained": mean * count / self.trained,
            "status share": self.status / (mean * count),
        }


def simulate(request: SearchRequest, progress: Callable[[str], None]) -> Costs:
    """Run a whole search of simulated trials, one at a time, in `request.storage`."""
    plan = make_plan(request)
    with Lease.acquire(request.folder) as lease, View(quiet=True) as view, ExitStack() as stack:
        driver = Driver(plan, lease, view, "", verbose=False, make_sink=NullSink)
        search = driver.open(stack)
        simulation = _Simulation(driver, search)
        simulation.run(progress)
        search.end()
        driver.background.shutdown(wait=True)
    return simulation.costs


def make_study(request: SearchRequest, progress: Callable[[str], None]) -> None:
    """Make a finished study of `request.trials` trials: those of a short search, copied."""
    template = request.model_copy(update={"trials": min(request.trials, 100), "sampler": "random"})
    simulate(template, progress)
    multiply(request.folder, request.trials)


def resume(request: SearchRequest) -> tuple[dict[str, float], dict[str, float]]:
    """Wall-clock and processor seconds of the driver's steps, from the lease to the first suggestion.

    Raises ValueError where the study has `request.trials` trials already.
    """
    seconds: dict[str, float] = {}
    processor: dict[str, float] = {}
    plan = make_plan(request)
    began = time.perf_counter()
    marked = began, time.process_time()

    def mark(step: str) -> None:
        """Charge the time since the last mark to a step."""
        nonlocal marked
        now = time.perf_counter(), time.process_time()
        seconds[step], processor[step] = now[0] - marked[0], now[1] - marked[1]
        marked = now

    with Lease.acquire(request.folder) as lease, View(quiet=True) as view, ExitStack() as stack:
        driver = Driver(plan, lease, view, "", verbose=False, make_sink=NullSink)
        mark("lease")
        driver.open_study()
        mark("journal")
        driver.check_manifest()
        mark("manifest")
        ledger = driver.make_ledger()
        mark("ledger")
        search = driver.open_search(ledger, stack)
        mark("outbox")
        search.tracker.search_started(driver.manifest.facts())
        search.catch_up()
        mark("catch up")
        if search.next_job() is None:
            raise ValueError("nothing is left to suggest; ask for more trials than are stored")
        mark("first suggestion")
        driver.background.shutdown(wait=True)
    return seconds | {"total": marked[0] - began}, processor


class NullSink:
    """A tracking server that accepts every event and keeps none."""

    def apply(self, event: Any) -> None: ...


class _Simulation:
    """Runs every trial in no time, and adds up the time that it would have taken."""

    def __init__(self, driver: Driver, search: Stage) -> None:
        self._driver, self._search = driver, search
        self._reports: dict[int, list[Report]] = defaultdict(list)
        self._next_status = 0.0
        self.costs = Costs()

    def run(self, progress: Callable[[str], None]) -> None:
        """All trials; `progress` is told of every EDGE of them."""
        began = time.perf_counter()
        while (job := self._next_job()) is not None:
            number, costs = job.number, self.costs
            costs.statuses[self._run_trial(number, job.config)] += 1
            if number % EDGE == EDGE - 1:
                recent = math.fsum(costs.seconds[n] for n in range(number + 1 - EDGE, number + 1))
                seconds = time.perf_counter() - began
                ms = 1e3 * recent / EDGE
                progress(f"{number + 1} trials, {ms:.0f} ms per trial, {seconds:.0f} s so far")

    def _next_job(self) -> Job | None:
        job, cost = self._timed(self._search.next_job)
        if job is not None:
            self.costs.add(job.number, cost)
        return job

    def _run_trial(self, number: int, config: Mapping[str, Any]) -> str:
        """Like a worker: hand in the reports of an earlier turn again, then train the rungs left."""
        budget, reports = config["budget"], self._reports[number]
        images = [round(share * budget["images"]) for share in budget["rungs"]]
        for rung, count in enumerate(images):
            if rung == len(reports):
                self._train(number, reports[-1].images if reports else 0, count, images[-1])
                reports.append(simulated_report(config, count))
            report = reports[rung]
            go_on, cost = self._timed(partial(self._search.on_report, number, report))
            self.costs.add(number, cost)
            if not go_on and count < images[-1]:
                return self._end(number, Outcome("pruned", "stopped at a rung"))
        return self._end(number, Outcome("completed"))

    def _end(self, number: int, outcome: Outcome) -> str:
        _, cost = self._timed(partial(self._search.on_end, number, outcome))
        self.costs.add(number, cost)
        return outcome.status

    def _train(self, number: int, before: int, images: int, of: int) -> None:
        """Let simulated time pass; meanwhile the live view and the status file are written."""
        costs = self.costs
        costs.trained += SECONDS * (images - before) / of
        progress = {"phase": "train", "images": images, "of": of, "loss": 0.1}

        def write() -> None:
            self._search.on_tick({"progress": {number: progress}})
            self._driver.status.write()

        while self._next_status < costs.trained:
            self._next_status += PERIOD
            _, cost = self._timed(write)
            costs.add(number, cost)
            costs.status += cost[0]

    def _timed(self, call: Callable[[], T]) -> tuple[T, tuple[float, float]]:
        """A result, and its (wall-clock, processor) seconds including its background work."""
        began = time.perf_counter(), time.process_time()
        result = call()
        self._driver.background.submit(int).result()
        return result, (time.perf_counter() - began[0], time.process_time() - began[1])


def simulated_report(config: Mapping[str, Any], images: int) -> Report:
    """A report that depends smoothly on what is searched, and that improves with training."""
    rate = math.log10(config["optimizer"]["learning_rate"] / 3e-3)
    power = config["weighting"].get("power", 0.5)
    share = config["time_sampler"]["diagonal_share"]
    gap = 0.1 + 0.05 * rate**2 + 0.02 * (power - 0.6) ** 2 + 0.03 * share + 1e3 / images
    metrics = {f"teacher_gap@{nfe}": gap / nfe for nfe in (1, 2, 4)}
    metrics |= {
        f"{name}@{nfe}": gap
        for name in ("sliced_wasserstein", "frechet_pixels")
        for nfe in (1, 2, 4)
    }
    metrics |= {"loss/loss": gap, "loss/gradient_norm": 1.0}
    cost = {"cpu_seconds": images / 1e4, "wall_seconds": images / 1e4, "step_ms": 10.0}
    return Report(images, metrics, cost, time.time())
