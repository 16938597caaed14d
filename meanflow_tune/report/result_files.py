"""The files that a search writes: the tables, the best configuration, and pictures of samples."""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from meanflow_tune.arrays import read_arrays
from meanflow_tune.files import OnlyShown
from meanflow_tune.plan.confirm import tuning_seed
from meanflow_tune.plan.findings import Findings
from meanflow_tune.plan.plan import Plan
from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.report.page.page_files import REPORT_NAME, write_page
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.pictures import comparison_grid, is_whole, sample_grid
from meanflow_tune.report.text import counted
from meanflow_tune.results.frames import METRICS, TRIALS
from meanflow_tune.results.metrics_table import RunKinds, write_metrics
from meanflow_tune.results.parquet import write_best, write_results
from meanflow_tune.search.store.manifest import Manifest

log = logging.getLogger(__name__)

PAGE_SECONDS = 5.0


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
    arrays = read_arrays(Path(source))
    for key in [key for key in arrays if re.fullmatch(r"student@[0-9]+", key)]:
        nfe = key.partition("@")[2]
        path = Path(source).with_name(f"{Path(source).stem}-nfe{nfe}.png")
        if not is_whole(path):
            title = f"trial {record.number}, {report.images:,} images, {counted(int(nfe), 'step')}"
            sample_grid(arrays[key], path, title)
        artifacts[f"samples_nfe_{nfe}"] = str(path)
    return replace(report, artifacts=artifacts)


def write_files(plan: Plan, findings: Findings, shown: OnlyShown | None = None) -> list[Path]:
    """results.parquet, metrics.parquet, report.html, best.json (the leader's configuration) where a trial
    completed, and best.png (the comparison) where there is one; returns what was written.

    The tables, whose contents the study holds anyway, the page and the picture are left out where a library
    cannot make them. Raises OSError where the folder cannot be written.
    """
    shown = OnlyShown() if shown is None else shown
    folder = plan.request.folder
    results, metrics = folder / TRIALS, folder / METRICS
    best, picture = folder / "best.json", folder / "best.png"
    if findings.leader is not None:
        write_best(best, findings.leader)
    made = {
        results: _write_table(shown, results, partial(_write_results, plan, findings, results)),
        metrics: _write_table(shown, metrics, partial(_write_metrics, plan, findings, metrics)),
        best: findings.leader is not None,
    }
    drawn = False
    if len(compared(findings)) > 1 and findings.reference is not None:
        draw = partial(_draw_comparison, plan, findings, picture)
        drawn = shown("draw best.png", draw, False, full=True)
    made[picture] = drawn
    page = folder / REPORT_NAME
    write = partial(_write_report, plan, findings, page)
    made[page] = shown(f"write {page.name}", write, False, full=True)
    return [path for path, there in made.items() if there]


def _write_table(shown: OnlyShown, path: Path, write: Callable[[], None]) -> bool:
    """Whether the table is written. Raises the error of a disk, which is not the table's."""

    def attempt() -> bool | OSError:
        try:
            write()
        except OSError as error:
            return error
        return True

    nothing: bool | OSError = False
    outcome = shown(f"write {path.name}", attempt, nothing)
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


def _write_results(plan: Plan, findings: Findings, path: Path) -> None:
    everything = [*findings.records, *findings.confirmed]
    names = [str(part) for part in plan.objectives.parts]
    kind_of = RunKinds(plan.request.seed)
    write_results(path, everything, names, plan.objectives.values, kind_of)


def _write_metrics(plan: Plan, findings: Findings, path: Path) -> None:
    records, confirmed = findings.records, findings.confirmed
    write_metrics(path, records, confirmed, plan.objectives, plan.request.seed)


def _write_report(plan: Plan, findings: Findings, path: Path) -> bool:
    """True; generating what was not kept takes no longer than PAGE_SECONDS."""
    folder = plan.request.folder
    view = StudyView(plan, findings, folder, Manifest.read(folder), made=time.time())
    write_page(path, [view], PAGE_SECONDS)
    return True


def compared(findings: Findings) -> dict[str, TrialRecord]:
    """The students of the comparison by their name in it: reference, leader, best proposed.

    A trial that is several of these stands once, under all its names.
    """
    roles = {
        "reference": findings.reference,
        "leader": findings.leader,
        "best proposed": findings.best_proposed,
    }
    names: dict[int, list[str]] = {}
    for role, record in roles.items():
        if record is not None:
            names.setdefault(record.number, []).append(role)
    known = {record.number: record for record in roles.values() if record is not None}
    return {
        f"{', '.join(words)}\n{known[number].baseline or f'trial {number}'}": known[number]
        for number, words in names.items()
    }


def _last_samples(record: TrialRecord | None) -> tuple[Report, Mapping[str, Any]] | None:
    """The last report of a run with its samples, None where they were not kept."""
    report = record.reports[-1] if record is not None and record.reports else None
    source = Path(report.artifacts.get("samples", "")) if report is not None else Path()
    if report is None or not source.is_file():
        return None
    return report, read_arrays(source)


def _draw_comparison(plan: Plan, findings: Findings, path: Path) -> bool:
    """Whether it is drawn.

    From the first confirmation run of every student if all have one, else from their own runs.
    """
    students = compared(findings)
    tuning = tuning_seed(plan.request.seed)
    again: dict[int, TrialRecord] = {}
    for run in findings.confirmed:
        if run.params["seed"] != tuning and run.reports:
            again.setdefault(int(run.params["candidate"]), run)
    confirmed = {name: _last_samples(again.get(r.number)) for name, r in students.items()}
    own = {name: _last_samples(record) for name, record in students.items()}
    found = {name: kept for name, kept in confirmed.items() if kept is not None}
    if len(found) < len(students):
        found = {name: kept for name, kept in own.items() if kept is not None}
    if len(found) < len(students):
        log.warning("no samples were kept, so %s is not drawn", path)
        return False
    (_, first), *others = found.values()
    if not all(np.array_equal(first["latents"], arrays["latents"]) for _, arrays in others):
        log.warning("the students were drawn from different latents; %s is not drawn", path)
        return False
    nfes = sorted(int(key.partition("@")[2]) for key in first if key.startswith("student@"))
    figures = json.loads(str(first["teacher_metrics"]))
    panels: list[tuple[str, Mapping[str, Any], str, Mapping[str, float]]] = []
    if f"teacher@{nfes[0]}" in first:  # else without a teacher
        panels.append(("teacher (Euler)", first, "teacher", figures))
    panels += [(n, arrays, "student", report.metrics) for n, (report, arrays) in found.items()]
    rows, labels = {}, {}
    for name, arrays, kind, metrics in panels:
        rows[name] = {nfe: arrays[f"{kind}@{nfe}"] for nfe in nfes}
        gaps = {nfe: metrics.get(f"teacher_gap@{nfe}") for nfe in nfes}
        labels[name] = {nfe: f"gap {gap:.4f}" for nfe, gap in gaps.items() if gap is not None}
    comparison_grid(rows, path, labels, title=plan.request.study)
    return True
