"""Makes many stored trials from few: copies a finished study's journal and outbox under new numbers."""

import json
import math
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from meanflow_tune.files import write_atomic
from meanflow_tune.search.store.storage import JOURNAL_NAME

SET_PARAM = 5  # the number of this operation in Optuna's journal
LOGGED = Path("outbox") / "events.jsonl"


def multiply(folder: Path, count: int, seed: int = 0) -> None:
    """Give the finished study in `folder` copies of its proposed trials until it has `count`.

    The lines are those that the real driver wrote, but for the numbers, the values of float parameters,
    which are drawn from their ranges, and a sample file, shared by all reports. Raises ValueError
    where there is no proposed trial to copy.
    """
    journal, events = folder / JOURNAL_NAME, folder / LOGGED
    head, trials = _by_trial(journal)
    logged = _by_number(events)
    proposed = [n for n, lines in trials.items() if b'"baseline"' not in lines[0]]
    if not proposed:
        raise ValueError(f"{journal} has no proposed trial to copy")
    samples = _sample_file(folder)
    draw = random.Random(seed)
    with open(journal, "wb") as to_journal, open(events, "wb") as to_events:
        to_journal.writelines(head)
        to_events.writelines(logged.pop(None, []))
        for number in range(count):
            source = number if number in trials else proposed[number % len(proposed)]
            for line in trials[source]:
                to_journal.write(_renumbered(line, number, samples, draw, number not in trials))
            for line in logged.get(source, []):
                to_events.write(_renumbered_event(line, source, number))
        end = to_events.tell()
    write_atomic(folder / "outbox" / "cursor.json", json.dumps({"offset": end}))


def _by_trial(journal: Path) -> tuple[list[bytes], dict[int, list[bytes]]]:
    """Lines about the study, and those of each trial by its number (which is its id: one study)."""
    head: list[bytes] = []
    trials: dict[int, list[bytes]] = defaultdict(list)
    created = 0
    for line in journal.read_bytes().splitlines(keepends=True):
        data = json.loads(line)
        if "trial_id" in data:
            trials[data["trial_id"]].append(line)
        elif "datetime_start" in data:
            trials[created].append(line)
            created += 1
        else:
            head.append(line)
    return head, trials


def _by_number(events: Path) -> dict[int | None, list[bytes]]:
    found: dict[int | None, list[bytes]] = defaultdict(list)
    for line in events.read_bytes().splitlines(keepends=True):
        trial = json.loads(line)["payload"].get("trial")
        found[None if trial is None else int(trial)].append(line)
    return found


def _renumbered(
    line: bytes, number: int, samples: Path, draw: random.Random, copied: bool
) -> bytes:
    data = json.loads(line)
    if "trial_id" in data:
        data["trial_id"] = number
    if copied and data["op_code"] == SET_PARAM:
        distribution = json.loads(data["distribution"])
        if distribution["name"] == "FloatDistribution":
            data["param_value_internal"] = _drawn(distribution["attributes"], draw)
    for entry in data.get("user_attr", {}).values():
        if isinstance(entry, dict) and "report" in entry:
            entry["report"]["artifacts"] = {"samples": str(samples)}
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def _drawn(distribution: dict[str, Any], draw: random.Random) -> float:
    low, high = float(distribution["low"]), float(distribution["high"])
    if distribution["log"]:
        return min(high, max(low, math.exp(draw.uniform(math.log(low), math.log(high)))))
    return draw.uniform(low, high)


def _renumbered_event(line: bytes, source: int, number: int) -> bytes:
    data = json.loads(line)
    study = data["payload"]["study"]
    data["key"] = data["key"].replace(f"{study}/{source}/", f"{study}/{number}/", 1)
    data["payload"]["trial"] = str(number)
    return json.dumps(data).encode() + b"\n"


def _sample_file(folder: Path) -> Path:
    """The files of a rung: samples, and the pictures drawn of them."""
    path = folder / "trials" / "samples" / "000000128000.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    grids: dict[str, Any] = {
        f"student@{nfe}": np.zeros((64, 1, 8, 8), np.float32) for nfe in (1, 2, 4)
    }
    np.savez(path, **grids, allow_pickle=False)
    for nfe in (1, 2, 4):
        path.with_name(f"{path.stem}-nfe{nfe}.png").touch()
    return path
