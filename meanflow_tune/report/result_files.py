"""The files that a search writes: the table, the best configuration, and pictures of samples."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from meanflow_tune.plan.confirm import tuning_seed
from meanflow_tune.plan.findings import Findings
from meanflow_tune.plan.plan import Plan
from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.report.pictures import comparison_grid, sample_grid
from meanflow_tune.results.parquet import write_best, write_results

log = logging.getLogger(__name__)


def model_of(record: TrialRecord) -> Path | None:
    """The exported student of a trial, None where it has none."""
    folder = Path(record.folder) / "model"
    return folder if (folder / "config.json").is_file() else None


def with_pictures(record: TrialRecord, report: Report) -> Report:
    """The report with `samples@NFE` pictures drawn from its sample file, where that is there."""
    source = report.artifacts.get("samples")
    if source is None or not Path(source).is_file():
        return report
    artifacts = dict(report.artifacts)
    with np.load(source) as arrays:
        for key in [key for key in arrays.files if key.startswith("student@")]:
            nfe = key.partition("@")[2]
            path = Path(source).with_name(f"{Path(source).stem}-nfe{nfe}.png")
            if not path.exists():
                title = f"trial {record.number}, {report.images:,} images, {nfe} steps"
                sample_grid(arrays[key], path, title)
            artifacts[f"samples_nfe_{nfe}"] = str(path)
    return replace(report, artifacts=artifacts)


def write_files(plan: Plan, findings: Findings) -> list[Path]:
    """results.parquet, and best.json and best.png where a trial completed; returns what was written."""
    folder = plan.request.folder
    everything = [*findings.records, *findings.confirmed]
    table = folder / "results.parquet"
    names = [str(part) for part in plan.objectives.parts]
    write_results(table, everything, names, plan.objectives.values)
    written = [table]
    if findings.winner is not None:
        write_best(folder / "best.json", findings.winner)
        written.append(folder / "best.json")
    picture = folder / "best.png"
    if findings.best is not None and findings.baseline is not None:
        _draw_comparison(plan, findings, picture)
        written.append(picture)
    return written


def _last_samples(
    findings: Findings, number: int, tuning: int
) -> tuple[Report, Mapping[str, Any]] | None:
    """The last report of a trial with its samples; of its first confirmation run if there is one."""
    runs = [
        r
        for r in findings.confirmed
        if r.params["candidate"] == number and r.params["seed"] != tuning and r.reports
    ]
    runs += [r for r in findings.records if r.number == number and r.reports]
    for record in runs:
        report = record.reports[-1]
        source = Path(report.artifacts.get("samples", ""))
        if source.is_file():
            with np.load(source) as arrays:
                return report, {name: arrays[name] for name in arrays.files}
    return None


def _draw_comparison(plan: Plan, findings: Findings, path: Path) -> None:
    assert findings.best is not None
    assert findings.baseline is not None
    tuning = tuning_seed(plan.request.seed)
    best = _last_samples(findings, findings.best.number, tuning)
    baseline = _last_samples(findings, findings.baseline.number, tuning)
    if best is None or baseline is None:
        log.warning("no samples were kept, so %s is not drawn", path)
        return
    if not np.array_equal(best[1]["latents"], baseline[1]["latents"]):
        log.warning("best and baseline were drawn from different latents; %s is not drawn", path)
        return
    figures = json.loads(str(best[1]["teacher_metrics"]))
    nfes = sorted(int(key.partition("@")[2]) for key in best[1] if key.startswith("student@"))
    panels = (
        ("teacher (Euler)", best[1], "teacher", figures),
        (f"baseline\n{findings.baseline.baseline}", baseline[1], "student", baseline[0].metrics),
        (f"best\ntrial {findings.best.number}", best[1], "student", best[0].metrics),
    )
    rows, labels = {}, {}
    for name, arrays, kind, metrics in panels:
        if f"{kind}@{nfes[0]}" not in arrays:  # a trial without a teacher
            continue
        rows[name] = {nfe: arrays[f"{kind}@{nfe}"] for nfe in nfes}
        gaps = {nfe: metrics.get(f"teacher_gap@{nfe}") for nfe in nfes}
        labels[name] = {nfe: f"gap {gap:.4f}" for nfe, gap in gaps.items() if gap is not None}
    comparison_grid(rows, path, labels, title=plan.request.study)
