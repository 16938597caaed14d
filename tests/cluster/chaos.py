"""`python -m tests.cluster.chaos --seed N`: a random walk of faults under one search on three hosts.

Its trials are fixed configurations without early stopping, since what a sampler proposes to several slots
depends on which of them ends first. After each fault all slots train again; in the end every value is that
of a run that nothing happened to, nothing is lost or doubled, and nothing is left. Which faults come, where
and after which pause follows from the seed alone. As root, on a machine that does nothing else.

`--table` breaks one thing after another instead, and prints the seconds of docs/BENCHMARKS.md.
"""

import argparse
import os
import platform
import random
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.hosts.faults import Faults
from tests.support.hosts.measured import Measured
from tests.support.hosts.mlflow_host import MlflowHost
from tests.support.hosts.namespaces import open_bed, wait_until
from tests.support.hosts.paced_search import (
    START_SECONDS,
    PacedSearch,
    Results,
    assert_undisturbed,
    leftovers,
    undisturbed,
)
from tests.support.hosts.ray_hosts import RayHosts

PACE = 0.3  # seconds per step: a trial takes half a minute and is seldom hit twice
CALM_SECONDS = 8.0  # longest pause before a fault
LEFTOVER_SECONDS = 60.0
# How often each comes in the walk, and its name in tables.
FAULTS = {
    "rank": (6, "rank killed"),
    "raylet": (5, "raylet killed"),
    "power": (5, "power cut"),
    "link": (5, "link cut"),
    "driver": (4, "driver replaced"),
    "head": (2, "head rebuilt"),
    "mlflow": (3, "MLflow killed"),
}


@dataclass(frozen=True)
class Step:
    """One fault of a walk. pause: seconds before it; choice: in [0, 1), of what it hits."""

    kind: str
    pause: float
    choice: float

    def pick(self, found: list[Any]) -> Any:
        """One of several, by the choice."""
        return found[int(self.choice * len(found))]


def walk(seed: int, faults: int) -> list[Step]:
    """The faults of a seed; a longer walk begins like a shorter one."""
    source = random.Random(f"chaos/{seed}")
    weights = [weight for weight, _ in FAULTS.values()]

    def step() -> Step:
        (kind,) = source.choices(list(FAULTS), weights)
        return Step(kind, source.uniform(0.0, CALM_SECONDS), source.random())

    return [step() for _ in range(faults)]


def one_after_another(repeat: int, default_health: bool) -> list[Step]:
    """Every fault, `repeat` times each; of a cluster with Ray's own settings what these change."""
    kinds = ["power", "link"] if default_health else [kind for kind in FAULTS if kind != "mlflow"]
    return [Step(kind, 2.0, 0.0) for kind in kinds for _ in range(repeat)]


def strike(step: Step, faults: Faults) -> float:
    """Break something; the seconds until the search runs again."""
    faults.choose = step.pick
    calls: dict[str, Callable[[], float]] = {
        "rank": faults.rank,
        "raylet": faults.raylet,
        "power": faults.power,
        "link": faults.link,
        "driver": lambda: faults.driver(_other_host(step, faults)),
        "head": faults.head,
        "mlflow": faults.tracking,
    }
    return calls[step.kind]()


def _other_host(step: Step, faults: Faults) -> Any:
    hosts = faults.cluster.bed.hosts
    return step.pick([host for host in hosts if host is not faults.search.driver_host])


class Clock:
    """Prints lines with the seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:7.1f} s] {text}", flush=True)


@contextmanager
def running(
    trials: int, fast: bool, clock: Clock, keep: Path | None
) -> Iterator[tuple[Faults, Results]]:
    """A search whose slots train, and the results of the undisturbed run. keep: a folder for what is left
    after a failure."""
    with open_bed(3) as bed:
        expected = undisturbed(bed, bed.hosts[0], trials, 1)
        clock.say(f"{trials} trials ran undisturbed")
        server = MlflowHost(bed)
        server.start()
        cluster = RayHosts(bed, fast=fast)
        cluster.start()
        search = PacedSearch(cluster, trials=trials, options=(f"--tracking-uri={server.uri}",))
        cluster.set_pace(PACE)
        search.start(bed.hosts[0])
        search.wait_for_slots(START_SECONDS)
        clock.say("all slots train")
        try:
            yield Faults(search, mlflow=server), expected
        except BaseException:
            print(search.report(), flush=True)
            if keep is not None:
                shutil.copytree(bed.shared, keep / "shared", symlinks=True)
                shutil.copytree(bed.logs, keep / "logs")
                shutil.copytree(server.host.folder / "tmp", keep / "mlflow")
            raise


def run(steps: list[Step], trials: int, fast: bool, keep: Path | None = None) -> Measured:
    """Walk through faults. Raises AssertionError or TimeoutError where the search does not survive."""
    clock, measured = Clock(), Measured()
    with running(trials, fast, clock, keep) as (faults, expected):
        search = faults.search
        memory = {h.name: {p.name for p in h.shared_memory.iterdir()} for h in search.hosts}
        for number, step in enumerate(steps, start=1):
            time.sleep(step.pause)
            ended = search.driver is not None and search.driver.poll() == 0
            assert not ended, f"the search ended before fault {number}; give more --trials"
            seconds = strike(step, faults)
            name = FAULTS[step.kind][1]
            measured.add(name, seconds)
            clock.say(f"{number:2}/{len(steps)} {name}: running again after {seconds:.1f} s")
            search.wait_for_slots(START_SECONDS)
        search.finish()
        assert faults.mlflow is not None
        assert_undisturbed(search.results(), expected, trials, faults.mlflow.database)
        clock.say(f"{trials} trials: 0 lost, 0 doubled, every value as in the undisturbed run")
        left: list[str] = []

        def clean() -> bool:
            left[:] = leftovers(search, memory)
            return not left

        wait_until(clean, LEFTOVER_SECONDS, lambda: f"left behind: {left}")
    return measured


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.cluster.chaos", description=__doc__)
    made.add_argument("--seed", type=int, default=0, help="of the walk (default: 0)")
    made.add_argument("--faults", type=int, default=30, help="length of the walk (default: 30)")
    made.add_argument("--trials", type=int, default=70, help="of the search (default: 70)")
    made.add_argument("--keep", type=Path, help="a new folder for what a failed walk leaves")
    made.add_argument("--table", action="store_true", help="each fault in turn, and their seconds")
    made.add_argument("--repeat", type=int, default=2, help="times per fault of the table (2)")
    made.add_argument(
        "--default-health", action="store_true", help="Ray's own health settings, not the fast ones"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    given = parser().parse_args(argv)
    if given.table:
        steps = one_after_another(given.repeat, given.default_health)
    else:
        steps = walk(given.seed, given.faults)
    health = "Ray's own" if given.default_health else "fast"
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    print(f"{os.cpu_count()} processors, {platform.system()}, {load}; {health} health settings")
    print(f"$ python -m tests.cluster.chaos {' '.join(sys.argv[1:] if argv is None else argv)}")
    try:
        measured = run(steps, given.trials, not given.default_health, given.keep)
    except (AssertionError, TimeoutError) as error:
        traceback.print_exc()
        print(f"{'table' if given.table else f'seed {given.seed}'}: {error}", file=sys.stderr)
        return 1
    except pytest.skip.Exception as missing:
        parser().error(str(missing))
    print("\n".join(measured.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
