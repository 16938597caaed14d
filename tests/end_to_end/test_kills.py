"""A search that is killed again and again equals one that never was: named points, random moments.

One slot, one seed, promotion on. Each driver of a chain runs the same command; each but the last is
killed (SIGKILL of its process, with which its private Ray goes).
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.paths import PROCESSES
from tests.support.processes.commands import (
    ROOT,
    assert_agreement,
    command,
    environment,
    mlflow_runs,
    study,
    table,
    too_busy,
)
from tests.support.processes.killed import POINTS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

TRIALS = 12
IMAGES = 6400  # 100 steps of 64
RUNG_STEPS = (25, 50, 100)
LONGEST = 50  # steps of the longest interval between rungs
RANDOM_KILLS = 10


class Chain:
    """Drivers of one search, one after another; steps[k]: (trial, step) that driver k's workers made."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.storage = folder, folder / "runs"
        self.drivers = 0
        self.killed: list[str] = []

    def start(self, point: str, **more: str) -> subprocess.Popen[bytes]:
        """The next driver, which kills itself at `point` ("never": it does not)."""
        options = ["--confirm-seeds=0", "--max-concurrent=1", f"--set=budget.images={IMAGES}"]
        arguments = command(self.storage, *options, trials=TRIALS)[2:]
        self.drivers += 1
        with (self.folder / f"said-{self.drivers}").open("w") as said:
            return subprocess.Popen(
                [
                    sys.executable,
                    str(PROCESSES / "killed.py"),
                    point,
                    *arguments,
                ],
                env=environment(
                    PYTHONPATH=str(ROOT),
                    STEPS=str(self.folder / f"steps-{self.drivers}"),
                    KILLED=str(self.folder / "killed"),
                    **more,
                ),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=self.folder,
            )

    def said(self) -> str:
        return (self.folder / f"said-{self.drivers}").read_text()

    def run(self, point: str, **more: str) -> int:
        """The status of the next driver for which Ray came up."""
        while too_busy(status := self.start(point, **more).wait(), self.said()):
            pass
        return status

    def run_to(self, point: str) -> None:
        status = self.run(point)
        assert status == -signal.SIGKILL, f"{point}: status {status}\n{self.said()}"
        assert (self.folder / "killed").read_text() == point
        self.killed.append(point)

    def run_to_the_end(self, **more: str) -> None:
        status = self.run("never", **more)
        assert status == 0, self.said()

    def steps(self) -> list[list[tuple[int, int]]]:
        made = []
        for number in range(1, self.drivers + 1):
            path = self.folder / f"steps-{number}"
            lines = path.read_text().splitlines() if path.exists() else []
            made.append([(int(a), int(b)) for a, b in (line.split() for line in lines)])
        return made

    def redone(self) -> list[int]:
        """For each driver after the first: how many of its steps had been made before."""
        seen: Counter[tuple[int, int]] = Counter()
        counts = []
        for made in self.steps():
            assert len(set(made)) == len(made), "a step twice under one driver"
            counts.append(sum(step in seen for step in made))
            seen.update(made)
        return counts[1:]


def outcome(storage: Path) -> list[dict[str, Any]]:
    """All of a study but clocks, costs, attempts, folders, and means that begin at a restart."""
    found = []
    for trial in study(storage).trials:
        reports = {k: v for k, v in trial.user_attrs.items() if k.startswith("report/")}
        rungs = {
            key: {
                "values": entry["values"],
                "verdict": entry["verdict"],
                "metrics": {
                    name: value
                    for name, value in entry["report"]["metrics"].items()
                    if not name.startswith("loss/")
                },
            }
            for key, entry in reports.items()
        }
        others = {
            key: value
            for key, value in trial.user_attrs.items()
            if key not in reports and key not in ("attempt", "config")
        }
        found.append(
            {
                "number": trial.number,
                "params": trial.params,
                "config": trial.user_attrs["config"],
                "state": trial.state.name,
                "value": trial.value,
                "intermediate": trial.intermediate_values,
                "rungs": rungs,
                "attributes": others,
                "constraints": trial.constraints,
            }
        )
    return found


def rows(storage: Path) -> list[dict[str, Any]]:
    """The Parquet table's facts, in its order."""
    names = ["number", "status", "baseline", "rung", "images", "is_last", "value", "reason"]
    return table(storage)[names].replace({np.nan: None}).to_dict("records")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The search that nobody killed."""
    chain = Chain(tmp_path_factory.mktemp("whole"))
    chain.run_to_the_end(TUNE=str(chain.folder / "tune.json"))
    return chain


def assert_equal(chain: Chain, whole: Chain) -> None:
    """Same trials, parameters, values and decisions; nothing twice; little done again."""
    assert_agreement(chain.storage, TRIALS)
    ours, theirs = outcome(chain.storage), outcome(whole.storage)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == other, f"trial {mine['number']}"
    assert rows(chain.storage) == rows(whole.storage)
    redone = chain.redone()
    assert len(redone) >= len(chain.killed)
    assert max(redone) <= LONGEST, redone
    everything = {step for made in whole.steps() for step in made}
    assert {step for made in chain.steps() for step in made} == everything


def test_the_search_stops_pauses_promotes_and_completes(whole: Chain) -> None:
    """Else the comparisons below would compare little."""
    found = outcome(whole.storage)
    assert {trial["state"] for trial in found} == {"COMPLETE", "PRUNED"}
    assert any("paused_at" in trial["attributes"] for trial in found)
    # A planted pickle in the state of a stock search is executed, a truncated one hangs: there is none.
    assert [path for path in whole.storage.rglob("*") if path.suffix in (".pkl", ".pickle")] == []
    made = whole.steps()[-1]
    assert len(set(made)) == len(made)
    for trial in found:
        last = max(int(key.partition("/")[2]) for key in trial["rungs"]) // 64
        assert last in RUNG_STEPS
        assert sorted(step for number, step in made if number == trial["number"]) == list(
            range(last)
        )


def test_tune_study_mlflow_and_table_agree_on_state_values_and_best(whole: Chain) -> None:
    """Stock: OptunaSearch tells stopped trials as COMPLETE; MLflow's callback does not tell them apart."""
    assert_agreement(whole.storage, TRIALS)
    seen = json.loads((whole.folder / "tune.json").read_text())
    assert all(end["error"] == "" for end in seen["ends"])
    status: dict[int, str] = {}
    value: dict[int, float] = {}
    for end in sorted(seen["ends"], key=lambda end: end["job"]["attempt"]):
        assert end["last"]["kind"] == "end"
        status[end["job"]["number"]] = end["last"]["outcome"]["status"]
    for event in seen["told"]:
        if event["event"]["kind"] == "report":
            metrics = event["event"]["report"]["metrics"]
            value[event["number"]] = float(
                np.sqrt(metrics["teacher_gap@1"] * metrics["teacher_gap@2"])
            )
    trials = study(whole.storage).trials
    in_study = {
        t.number: {"COMPLETE": "completed", "PRUNED": "pruned"}[t.state.name] for t in trials
    }
    last = {t.number: t.intermediate_values[max(t.intermediate_values)] for t in trials}
    assert status == in_study
    assert value == pytest.approx(last, rel=1e-12)
    frame = table(whole.storage).query("is_last")
    assert dict(zip(frame["number"], frame["value"], strict=True)) == pytest.approx(last)
    runs = {
        int(run.data.tags["meanflow_tune.trial"].rpartition("/")[2]): run
        for run in mlflow_runs(whole.storage)
        if "meanflow_tune.trial" in run.data.tags
    }
    assert {n: run.data.metrics["objective"] for n, run in runs.items()} == pytest.approx(last)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}, "no stop is a failure"
    assert {n: run.data.tags["state"] for n, run in runs.items()} == in_study
    # The best of each one's own completed trials.
    best = study(whole.storage).best_trial.number
    assert min((v, n) for n, v in value.items() if status[n] == "completed")[1] == best
    done = frame[frame["status"] == "completed"]
    assert int(done.loc[done["value"].idxmin()]["number"]) == best
    finished = [
        (r.data.metrics["objective"], n)
        for n, r in runs.items()
        if r.data.tags["state"] == "completed"
    ]
    assert min(finished)[1] == best
    (search,) = (r for r in mlflow_runs(whole.storage) if "meanflow_tune.trial" not in r.data.tags)
    assert search.data.tags["state"] == "completed"
    written = json.loads((whole.storage / "tiny_space" / "best.json").read_text())
    assert written == study(whole.storage).best_trial.user_attrs["config"]


def test_killed_at_every_named_point(whole: Chain, tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    for point in POINTS:
        chain.run_to(point)
    assert len(chain.killed) >= 10
    chain.run_to_the_end()
    assert_equal(chain, whole)


@pytest.mark.hosts
def test_killed_at_random_moments(whole: Chain, tmp_path: Path) -> None:
    """After a random number of further lines of the journal and a random pause."""
    chain, chance = Chain(tmp_path), random.Random(20)
    journal = chain.storage / "tiny_space" / "study.journal"

    def lines() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    while len(chain.killed) < RANDOM_KILLS:
        wanted, pause = lines() + chance.randint(1, 15), chance.uniform(0.0, 0.3)
        driver = chain.start("never")
        while driver.poll() is None and lines() < wanted:
            time.sleep(0.01)
        time.sleep(pause)
        driver.kill()
        if too_busy(status := driver.wait(), chain.said()):
            continue
        assert status == -signal.SIGKILL, f"after {chain.killed} one came too late\n{chain.said()}"
        chain.killed.append(f"line {wanted}")
    chain.run_to_the_end()
    assert_equal(chain, whole)
