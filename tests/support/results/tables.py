"""A small search with its confirmation and files of samples, made up: what both tables are tested on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from meanflow_tune.plan import confirm
from meanflow_tune.plan.confirm import Entry
from meanflow_tune.records import Report, Status, TrialRecord
from meanflow_tune.results.frames import METRICS, TRIALS
from meanflow_tune.results.metrics_table import RunKinds, write_metrics
from meanflow_tune.results.parquet import write_results
from meanflow_tune.search.objectives import Objectives
from tests.support.records import build_record, with_samples

OBJECTIVES = Objectives.parse("geometric_mean(teacher_gap@1,teacher_gap@2)")
SEED = 5
REPEAT_SEED = 77
EULER = {"teacher_gap@1": 0.9, "teacher_gap@2": 0.5, "far@1": 2.0, "far@2": 1.5}
HELD_OUT = {"teacher": {"far": 0.2}, "data": {"far": 0.1}, "noise": {"far": 9.0}}


def report(images: int, gap: float, repeat: int = 0) -> Report:
    metrics = {"teacher_gap@1": gap, "teacher_gap@2": gap / 2, "far@1": gap, "far@2": gap}
    metrics["loss/loss"] = 3.0
    names = ("cpu_seconds", "wall_seconds", "step_ms", "steps")
    cost = dict.fromkeys(names, images / gap)
    return Report(images, metrics, cost, 100.0 + images, repeat=repeat)


def run(
    folder: Path, number: int, *gaps: float, status: Status = "completed", **fields: Any
) -> TrialRecord:
    """A run with one report per gap; a completed one left a file of samples."""
    reports = [report(50 * (i + 1), gap) for i, gap in enumerate(gaps)]
    evaluation = {"latent_seed": fields.pop("latent_seed", 1), "nfe": [1, 2]}
    config = {
        "seed": fields.pop("seed", 2**60),
        "data": {"kind": "toy"},
        "teacher": {"seed": 4},
        "evaluation": evaluation,
        "optimizer": {"learning_rate": 0.01, "clip_norm": None},
        "compile": False,
    }
    study = fields.pop("study", "toy")
    values = tuple(OBJECTIVES.values(one) for one in reports)
    told = {"rung_values": values, "value": values[-1][0]} if values else {}
    given = {"study": study, "config": config, "folder": str(folder / f"{number:05d}")}
    made = build_record(
        number, status, *reports, **(given | told | {"params": {"rate": 0.01}} | fields)
    )
    if status != "completed":
        return made
    Path(made.folder).mkdir(parents=True, exist_ok=True)
    return with_samples(made, Path(made.folder) / "last.npz", EULER, HELD_OUT, nfe=(1, 2))


def searched(folder: Path) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """Records of a search and of its confirmation.

    Trial 3, proposed, has a repeat; 4 was pruned and 5 failed before its first report. Confirmed are 0
    and 3, and 1, whose learning rate is first tuned; a run of 3 diverged.
    """
    trials = folder / "trials"
    repeated = run(trials, 3, 0.4, 0.2)
    again = Path(repeated.folder) / "repeats" / "1"
    again.mkdir(parents=True, exist_ok=True)
    (again / "config.json").write_text(json.dumps({"seed": REPEAT_SEED}))
    records = [
        run(trials, 0, 0.6, 0.4, baseline="mid"),
        run(trials, 1, 0.7, 0.5, baseline="forward"),
        run(trials, 2, 0.65, 0.45),
        replace(repeated, repeats=(report(100, 0.25, repeat=1),)),
        run(trials, 4, 0.9, status="pruned", reason="place 4 of 4"),
        run(trials, 5, status="failed", reason="ValueError"),
    ]
    confirmed: list[TrialRecord] = []

    def add(entry: Entry, gap: float, latent_seed: int, status: Status = "completed") -> None:
        gaps = () if status == "diverged" else (gap,)
        made = run(
            folder / "confirm" / "trials",
            len(confirmed),
            *gaps,
            status=status,
            study="toy/confirm",
            baseline=entry.name,
            params=entry.params,
            seed=entry.seed,
            latent_seed=latent_seed,
        )
        confirmed.append(made)

    tuning = confirm.tuning_seed(SEED)
    for factor, gap in zip(confirm.FACTORS, (0.6, 0.5, 0.4), strict=True):
        add(Entry(1, tuning, factor), gap, latent_seed=3)
    for k, seed in enumerate(confirm.fresh_seeds(SEED, 2)):
        add(Entry(0, seed), 0.5 + 0.1 * k, latent_seed=2)
        add(Entry(1, seed, confirm.FACTORS[2]), 0.3 + 0.1 * k, latent_seed=2)
        add(Entry(3, seed), 0.2, latent_seed=2, status="diverged" if k else "completed")
    return records, confirmed


def write_tables(folder: Path) -> tuple[Path, Path]:
    """Both files of that search in a folder."""
    records, confirmed = searched(folder)
    names = [str(part) for part in OBJECTIVES.parts]
    results, metrics = folder / TRIALS, folder / METRICS
    everything = [*records, *confirmed]
    write_results(results, everything, names, OBJECTIVES.values, RunKinds(SEED))
    write_metrics(metrics, records, confirmed, OBJECTIVES, SEED)
    return results, metrics
