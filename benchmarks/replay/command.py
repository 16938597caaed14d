"""Replay: any sampler and scheduler against a finished study, many times over, in simulated time.

Decisions are made by the package itself: its Ledger, Rungs and samplers on a study in memory. The results
of trials come from the table, so that defaults can be chosen by hundreds of searches in minutes.
"""

import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from benchmarks.replay.arms import RANDOM, Arm, Problem, default_arms
from benchmarks.replay.options import OURS, SEARCH, Cost
from benchmarks.replay.report import Curves, draw, summary
from benchmarks.replay.simulation import simulate
from benchmarks.replay.statistics import best_so_far, compare, estimate_iqm
from benchmarks.replay.surrogate import Surrogate
from benchmarks.replay.table import Table, load_table, without_baselines
from meanflow_tune.driver.cli import make_request
from meanflow_tune.files import write_atomic
from meanflow_tune.search.space.load import load_space
from meanflow_tune.search.store.manifest import is_source_of

FRACTIONS = tuple(i / 40 for i in range(1, 41))


@dataclass(frozen=True)
class Replay:
    """The measurement. regrets: arm -> [repetition, fraction of the budget]; started: arm -> trials per
    repetition; budget: simulated time on `workers` workers."""

    problem: Problem
    arms: tuple[Arm, ...]
    regrets: dict[str, np.ndarray]
    started: dict[str, float]
    budget: float


def make_problem(
    table: Table, kind: str, space: Callable[[Any], Any] | None, seed: int = 0
) -> Problem:
    """The table to search: "rows", or a "surrogate" fitted to them."""
    sign = 1.0 if table.direction == "minimize" else -1.0
    if kind == "rows":
        finals = table.finals
        return Problem(
            table, space, None, float(sign * np.min(sign * finals)), float(np.median(finals))
        )
    assert space is not None
    surrogate = Surrogate(table, seed)
    return Problem(table, space, surrogate, *surrogate.reference(space, seed))


def measure(
    problem: Problem,
    arms: Sequence[Arm],
    trials: int,
    workers: int,
    repetitions: int,
    seed: int = 0,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Replay:
    """Simulate every arm `repetitions` times; repetition r has the seed seed + 1 + r in all arms.

    (Not seed + r: a table drawn by QMC has seed 0, with which QMC would draw it again in order.)

    trials: the budget, in trials run to their end at the table's mean cost.
    """
    budget = trials * problem.table.mean_cost() / workers
    tasks = [(arm, repetition) for repetition in range(repetitions) for arm in arms]
    regrets = {arm.name: np.full((repetitions, len(FRACTIONS)), np.inf) for arm in arms}
    started = {arm.name: 0.0 for arm in arms}
    for done, (i, values, count) in enumerate(
        _in_parallel(problem, tasks, budget, workers, seed, jobs), 1
    ):
        arm, repetition = tasks[i]
        regrets[arm.name][repetition] = problem.regret(values)
        started[arm.name] += count / repetitions
        progress(done, len(tasks))
    return Replay(problem, tuple(arms), regrets, started, budget)


def _in_parallel(
    problem: Problem,
    tasks: Sequence[tuple[Arm, int]],
    budget: float,
    workers: int,
    seed: int,
    jobs: int,
) -> Iterator[tuple[int, np.ndarray, int]]:
    """(index of the task, best values at FRACTIONS, trials started), in the order of completion."""
    if jobs == 1:
        _begin(problem, budget, workers)
        for i, (arm, repetition) in enumerate(tasks):
            yield i, *_one(arm, seed + 1 + repetition)
        return
    # Forked, so that a space that came from a file need not be importable in the new processes.
    context = multiprocessing.get_context("fork")
    given = (problem, budget, workers)
    with ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=given) as pool:
        futures = {
            pool.submit(_one, arm, seed + 1 + repetition): i
            for i, (arm, repetition) in enumerate(tasks)
        }
        try:
            for future in as_completed(futures):
                yield futures[future], *future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_GIVEN: list[Any] = []  # problem, budget and workers of this process


def _begin(problem: Problem, budget: float, workers: int) -> None:
    _GIVEN[:] = [problem, budget, workers]


def _one(arm: Arm, seed: int) -> tuple[np.ndarray, int]:
    problem, budget, workers = _GIVEN
    director, curve = problem.search(arm, seed)
    run = simulate(director, curve, problem.table.rungs, workers, budget)
    times = np.array(FRACTIONS) * budget
    minimize = problem.table.direction == "minimize"
    return best_so_far(run.completed, times, minimize), run.started


def run(arguments: dict[str, Any], command: Sequence[str]) -> int:
    """The command with its parsed options.

    Raises UserError for a setting that tune.py refuses, ValueError and OSError as `replay` does.
    """
    given = {name: arguments.pop(name) for name in SEARCH if name in arguments}
    request = make_request({"study": OURS} | given)
    arm = Arm(OURS, **{name: getattr(request, name) for name in SEARCH})
    return replay(arm=arm, command=command, **arguments)


def replay(
    *,
    study: Path,
    space: str | None,
    table: str,
    arm: Arm,
    trials: int | None,
    workers: int,
    repetitions: int,
    cost: Cost,
    baselines: bool,
    seed: int,
    jobs: int,
    json_file: Path | None,
    plot: Path | None,
    command: Sequence[str],
) -> int:
    """The command: load, simulate, print.

    Raises:
        ValueError: the study, the space or the settings cannot be replayed.
    """
    for file in (json_file, plot):
        if file is not None and not file.absolute().parent.is_dir():
            raise ValueError(f"{file}: there is no folder {file.absolute().parent}")
    print(f"{machine()}\n$ {' '.join(command)}\n", flush=True)
    rows, manifest = load_table(study, cost)
    if not baselines:
        rows = without_baselines(rows)
    print(rows.describe(), flush=True)
    suggest = None
    if table == "surrogate" or arm.mapping == "nearest":
        loaded = load_space(space or manifest.space)
        if not is_source_of(manifest, loaded.source_hash, loaded.earlier_hashes):
            print(f"note: the space {loaded.name} has changed since the study was made")
        suggest = loaded.suggest
    trials = trials or max(10, len(rows.rows) // 8)
    if table == "rows" and trials > len(rows.rows):
        raise ValueError(
            f"--trials {trials}: the table has {len(rows.rows)} rows, and none is run twice; give fewer, "
            "or --table surrogate"
        )
    problem = make_problem(rows, table, suggest, seed)
    if problem.surrogate is not None:
        print(problem.surrogate.describe(), flush=True)
    began = time.perf_counter()
    result = measure(
        problem, default_arms(arm), trials, workers, repetitions, seed, jobs, _progress(began)
    )
    curves = Curves(
        title=f"{rows.study}, {table}",
        fractions=FRACTIONS,
        iqm={name: estimate_iqm(regret, seed) for name, regret in result.regrets.items()},
        against={
            name: compare(regret[:, -1], result.regrets[RANDOM][:, -1], seed)
            for name, regret in result.regrets.items()
            if name != RANDOM
        },
        started=result.started,
        reference=RANDOM,
        ours=arm.name,
        trials=trials,
    )
    print(summary(curves, workers, repetitions), flush=True)
    if table == "rows":
        print(_exhaustion(curves.started, len(rows.rows)), end="", flush=True)
    if json_file is not None:
        data = {
            "machine": machine(),
            "command": list(command),
            "table": rows.describe(),
            "budget": result.budget,
            "arms": [asdict(one) for one in result.arms],
            "fractions": FRACTIONS,
            "regrets": {name: regret.tolist() for name, regret in result.regrets.items()},
            "against_random": {name: asdict(c) for name, c in curves.against.items()},
        }
        write_atomic(json_file, json.dumps(_finite(data), indent=1) + "\n")
    if plot is not None:
        draw(curves, plot)
    return 0


def _exhaustion(started: Mapping[str, float], rows: int) -> str:
    """A note where a search started nearly all rows and so cannot miss the best one."""
    most = {name: count for name, count in started.items() if count > 0.8 * rows}
    if not most:
        return ""
    listed = ", ".join(f"{name} {count:.0f}" for name, count in most.items())
    return (
        f"note: these searches started nearly all of the {rows} rows ({listed}), so their results reflect "
        "the end of the table, not their merit; lower --trials, or use --table surrogate\n"
    )


def _progress(began: float) -> Callable[[int, int], None]:
    """One line that is overwritten on a terminal; elsewhere a line per ten per cent."""
    terminal = sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        seconds = time.perf_counter() - began
        left = seconds / done * (total - done)
        text = f"{done} of {total} searches, {seconds:.0f} s, about {left:.0f} s left"
        if terminal:
            print(f"\r\033[K{text}", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif done * 10 // total > (done - 1) * 10 // total:
            print(text, file=sys.stderr, flush=True)

    return show


def _finite(data: Any) -> Any:
    """JSON has no infinity: null where no trial had completed yet."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not np.isfinite(data) else data
