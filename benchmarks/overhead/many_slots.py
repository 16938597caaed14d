"""One step of `benchmark.py search --slots`, in its own process, which prints its figures as JSON.

`python -m benchmarks.overhead.many_slots SLOTS SECONDS FOLDER`. The driver is the real one with its
lease, journal, outbox, status file, Ray Tune and broker; the slots are `SpokenSlots`.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.overhead.bookkeeping import NullSink
from benchmarks.overhead.roles import idle_seconds, uses
from benchmarks.overhead.scaling import EVERY
from meanflow_tune.cluster.connection.session import end_process
from meanflow_tune.driver.driver import Driver
from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.report.live import View
from meanflow_tune.search.store.lease import Lease

if TYPE_CHECKING:
    from meanflow_tune.cluster.broker_handle import BrokerHandle

REPORTS = 10  # of a trial
PER_SPEAKER = 100  # slots for which one process speaks
START_SECONDS = 300.0  # within which all slots must have reported


class Speaker:
    """An actor that speaks for some slots."""

    def __init__(self, names: list[str], broker: "BrokerHandle") -> None:
        from benchmarks.overhead.spoken_slots import SpokenSlots

        self._slots, self._broker = SpokenSlots(names, EVERY), broker

    async def run(self) -> None:
        await self._slots.run(self._broker.send)

    async def take_figures(self) -> tuple[list[float], list[float]]:
        return self._slots.take_figures()


class FixedSlots:
    """What Ray Tune asks about slots: there are always `count`."""

    def __init__(self, count: int) -> None:
        self.count = count

    def tick(self, snapshot: Mapping[str, Any]) -> None: ...


class Window:
    """Measures once all slots have reported, for some seconds, and then asks the search to stop."""

    def __init__(self, slots: int, seconds: float, speakers: list[Any]) -> None:
        self.requested = False
        self.figures: dict[str, Any] = {}
        self._slots, self._seconds, self._speakers = slots, seconds, speakers

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        try:
            started = time.monotonic()
            reports = 0
            while reports < self._slots and time.monotonic() - started < START_SECONDS:
                time.sleep(1.0)
                reports += len(self._take()[0])
            if reports < self._slots:
                self.figures = {"note": f"only {reports} reports within {START_SECONDS:.0f} s"}
                return
            self._take()
            self.figures = self._measure()
        finally:
            self.requested = True

    def _measure(self) -> dict[str, Any]:
        began, idle, before = time.monotonic(), idle_seconds(), uses(os.getpid())
        time.sleep(self._seconds)
        verdicts, beats = self._take()
        after, spent = uses(os.getpid()), time.monotonic() - began
        return {
            "seconds": spent,
            "verdicts": sorted(verdicts),
            "beats": sorted(beats),
            "idle": (idle_seconds() - idle) / spent,
            "load": os.getloadavg()[0],
            "busy": {r: (after[r].seconds - before[r].seconds) / spent for r in after},
            "waited": {r: (after[r].waited - before[r].waited) / spent for r in after},
            "mib": {r: after[r].mib for r in after},
        }

    def _take(self) -> tuple[list[float], list[float]]:
        import ray

        taken = ray.get([speaker.take_figures.remote() for speaker in self._speakers])
        return [x for v, _ in taken for x in v], [x for _, b in taken for x in b]


def main(argv: list[str]) -> None:
    """Figures go to standard output, everything else that is printed to standard error."""
    slots, seconds, folder = int(argv[0]), float(argv[1]), Path(argv[2])
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(measure(slots, seconds, folder)), file=lines, flush=True)


def measure(slots: int, seconds: float, folder: Path) -> dict[str, Any]:
    """The figures of a search on so many slots, or a note why there are none."""
    from meanflow_tune.cluster.connection.local_ray import start_local

    plan = make_plan(_request(slots, folder))
    with (
        Lease.acquire(plan.request.folder) as lease,
        View(quiet=True) as view,
        ExitStack() as stack,
    ):
        driver = Driver(plan, lease, view, "", verbose=False, make_sink=NullSink)
        search = driver.open(stack)
        stack.enter_context(start_local(1, 0))
        import ray

        from meanflow_tune.cluster.broker_handle import start_broker
        from meanflow_tune.cluster.tuner import run_search

        broker = start_broker()
        names = [f"slot-{k}" for k in range(slots)]
        actor = ray.remote(num_cpus=0, max_concurrency=10)(Speaker)
        speakers = [
            actor.remote(names[k : k + PER_SPEAKER], broker) for k in range(0, slots, PER_SPEAKER)
        ]
        running = [speaker.run.remote() for speaker in speakers]
        driver.status.slots = lambda: slots
        stack.callback(driver.status.stop)
        driver.status.start()
        window = Window(slots, seconds, speakers)
        watch = window.start()
        run_search(search, broker, folder / "tune", search.name, FixedSlots(slots), window)
        watch.join()
        driver.background.shutdown(wait=True)
        del running
    return window.figures


def _request(slots: int, folder: Path) -> SearchRequest:
    """Trials whose reports are all decided upon, and that run nearly to the end: as the reports of a real
    search are minutes apart, new trials are rare."""
    shares = [round((k + 1) / REPORTS, 3) for k in range(REPORTS)]
    images = 128_000
    return SearchRequest(
        study="slots",
        trials=max(100, 20 * slots),
        storage=folder,
        settings=(f"budget.images={images}", f"budget.rungs={shares}"),
        grace=int(0.85 * images),
        promotion=False,
        confirm=0,
        confirm_seeds=0,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
    end_process(0)
