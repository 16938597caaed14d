"""What keeping the books of a search costs: trials of simulated length, and a resume of many.

The driver is the real one, with its lease, journal on disk, sampler, rungs, outbox and status file;
left out are Ray, the training and the tracking server.
"""

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.overhead.copies import multiply
from meanflow_tune.driver.driver import Driver
from meanflow_tune.driver.stage import Stage
from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Outcome, Report
from meanflow_tune.report.live import View
from meanflow_tune.search.errors import SearchStopped
from meanflow_tune.search.store.lease import Lease

SECONDS = 5.0  # of simulated training, a trial that runs through
STUDY = "books"
EDGE = 100  # trials at the beginning and the end of a search that are compared


@dataclass
class Books:
    """cost: trial number -> seconds of bookkeeping, processor: of them those that a processor worked,
    status: seconds of all that went into the status file; trained: simulated seconds of all trials.
    """

    cost: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    processor: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    status: float = 0.0
    trained: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        """Means over trials in order of their numbers; EDGE trials, or half of all, at each end."""
        count = len(self.cost)
        edge = min(EDGE, count // 2)
        found: dict[str, float] = {"trials": count, "edge": edge}
        for name, costs in (("seconds", self.cost), ("processor", self.processor)):
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


def bookkeeping(request: SearchRequest, progress: Callable[[str], None]) -> Books:
    """Run a whole search of simulated trials, one slot, in `request.storage`."""
    with _driver(request, _Simulated) as driver:
        driver.progress = progress
        if driver.run() != 0:
            raise ValueError(f"the simulated search of {request.storage} did not end well")
        books: Books = driver.books
        return books


def stored_trials(request: SearchRequest, count: int, progress: Callable[[str], None]) -> None:
    """Make a finished study of `count` trials: a short real one, its lines copied for new numbers."""
    template = request.model_copy(update={"trials": min(count, 100), "sampler": "random"})
    bookkeeping(template, progress)
    multiply(request.folder, count)


def resume(request: SearchRequest) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds from taking the lease to the first suggestion, in the steps of the driver, by the clock
    and of the processor.

    The study must have fewer trials than `request.trials`. Raises ValueError where nothing is left.
    """
    with _driver(request, _FirstSuggestion) as driver:
        driver.run()
        return driver.seconds, driver.processor


class Unsent:
    """A tracking server that takes everything."""

    def apply(self, event: Any) -> None: ...


class _Offline(Driver):
    """The real driver without a tracking server, and without a thread beside what is measured."""

    began = 0.0

    def _sink(self) -> Any:
        return Unsent()

    def _keep_status(self, stack: ExitStack) -> None: ...

    def _close(self, search: Stage, interrupted: bool, stopped: SearchStopped | None = None) -> int:
        if stopped is not None:
            raise stopped
        if search.exhausted():
            search.end()
        self.background.shutdown(wait=True)
        return 0


class _Simulated(_Offline):
    """Runs every trial in no time, and keeps count of the time that it would have taken."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.books = Books()
        self.progress: Callable[[str], None] = lambda line: None
        self._reported: dict[int, list[Report]] = defaultdict(list)
        self._looked = 0.0

    def _work(self, search: Stage, stack: ExitStack) -> None:
        books, began = self.books, time.perf_counter()
        while True:
            with self._timed() as cost:
                job = search.next_job()
            if job is None:
                return
            number = job.number
            self._writer(number, cost)
            status = self._run(search, number, job.config)
            books.statuses[status] = books.statuses.get(status, 0) + 1
            if number % EDGE == EDGE - 1:
                recent = [books.cost[n] for n in range(number + 1 - EDGE, number + 1)]
                ms = 1e3 * math.fsum(recent) / EDGE
                seconds = time.perf_counter() - began
                self.progress(f"{number + 1} trials, {ms:.0f} ms each, {seconds:.0f} s so far")

    def _run(self, search: Stage, number: int, config: Mapping[str, Any]) -> str:
        """Like a worker: reports of an earlier turn come again, then the rungs that are left."""
        budget = config["budget"]
        reported = self._reported[number]
        images = [round(share * budget["images"]) for share in budget["rungs"]]
        for count in images:
            again = count in {report.images for report in reported}
            if not again:
                before = reported[-1].images if reported else 0
                self._train(number, before, count, images[-1])
                reported.append(simulated_report(config, count))
            with self._timed() as cost:
                report = next(r for r in reported if r.images == count)
                go_on = search.on_report(number, report)
            self._writer(number, cost)
            if not go_on and count < images[-1]:
                return self._end(search, number, Outcome("pruned", "stopped at a rung"))
        return self._end(search, number, Outcome("completed"))

    def _end(self, search: Stage, number: int, outcome: Outcome) -> str:
        with self._timed() as cost:
            search.on_end(number, outcome)
        self._writer(number, cost)
        return outcome.status

    def _train(self, number: int, before: int, images: int, of: int) -> None:
        """Let simulated time pass, in which the live view and the status file are kept."""
        self.books.trained += SECONDS * (images - before) / of
        progress = {"phase": "train", "images": images, "of": of, "loss": 0.1}
        while self._looked < self.books.trained:
            self._looked += 1.0
            with self._timed() as cost:
                self.stages[-1].on_tick({"progress": {number: progress}})
                self.status.write()
            self._writer(number, cost)
            self.books.status += cost[0]

    @contextmanager
    def _timed(self) -> Iterator[list[float]]:
        """Seconds and processor seconds of the block, with what it left to the background thread."""
        cost = [0.0, 0.0]
        began = time.perf_counter(), time.process_time()
        yield cost
        self.background.submit(int).result()
        cost[:] = time.perf_counter() - began[0], time.process_time() - began[1]

    def _writer(self, number: int, cost: list[float]) -> None:
        self.books.cost[number] += cost[0]
        self.books.processor[number] += cost[1]


class _FirstSuggestion(_Offline):
    """Goes as far as the first job."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        self.counted = time.process_time()

    def run(self) -> int:
        began = time.perf_counter()
        status = super().run()
        self.seconds = {"lease": self.lease_seconds} | self.seconds
        self.seconds["total"] = self.lease_seconds + self.ready - began
        return status

    def _check_manifest(self) -> None:
        self._mark("journal")
        super()._check_manifest()
        self._mark("manifest")

    def _stage(self, *given: Any) -> Stage:
        self._mark("ledger")
        stage = super()._stage(*given)
        self._mark("outbox")
        return stage

    def _work(self, search: Stage, stack: ExitStack) -> None:
        self._mark("catch up")
        job = search.next_job()
        self.ready = time.perf_counter()
        self._mark("first suggestion")
        if job is None:
            raise ValueError("nothing is left to suggest; ask for more trials than are stored")

    def _mark(self, step: str) -> None:
        """Give the time since the last mark to a step."""
        now, processor = time.perf_counter(), time.process_time()
        self.seconds[step] = now - self.marked
        self.processor[step] = processor - self.counted
        self.marked, self.counted = now, processor

    lease_seconds = 0.0
    ready = 0.0
    marked = 0.0


@contextmanager
def _driver(request: SearchRequest, kind: type[Any]) -> Iterator[Any]:
    plan = make_plan(request)
    began = time.perf_counter()
    with Lease.acquire(request.folder) as lease, View(quiet=True) as view:
        driver = kind(plan, lease, view, "", False)
        driver.marked = time.perf_counter()
        driver.lease_seconds = driver.marked - began
        yield driver


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


def main() -> None:
    """For a look while developing: python -m benchmarks.overhead.books DIR TRIALS."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    request = SearchRequest(study=STUDY, trials=count, storage=folder, confirm=0, confirm_seeds=0)
    print(json.dumps(bookkeeping(request, lambda x: print(x, flush=True)).summary(), indent=1))


if __name__ == "__main__":
    main()
