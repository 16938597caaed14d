"""What a search leaves behind: tables, pictures, the best configuration, and the summary in words."""

import json
import logging
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from meanflow_tune.confirm import compare
from meanflow_tune.plan import Plan
from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.request import SearchRequest
from meanflow_tune.results.pictures import comparison_grid, sample_grid
from meanflow_tune.results.tables import write_best, write_results
from meanflow_tune.search.analysis import Paired
from meanflow_tune.search.lease import LeaseState
from meanflow_tune.search.objective import SearchObjective
from meanflow_tune.search.view import best_record
from meanflow_tune.view import COLOURS

log = logging.getLogger(__name__)
STATUS_NAME = "status.json"
STALE_SECONDS = 15.0


@dataclass(frozen=True)
class Findings:
    """The records of a search and of its confirmation, and the two trials that matter.

    baseline: the best of the space's REFERENCE; best: the best of all other trials.
    """

    records: list[TrialRecord]
    confirmed: list[TrialRecord]
    best: TrialRecord | None
    baseline: TrialRecord | None

    direction: str

    def paired(self, objective: SearchObjective) -> list[Paired]:
        """Paired differences on fresh seeds, the objective first; empty before a confirmation."""
        if self.best is None or self.baseline is None:
            return []
        return compare(self.confirmed, self.best.number, self.baseline.number, objective)


def find(plan: Plan, records: list[TrialRecord], confirmed: list[TrialRecord]) -> Findings:
    """The best of the reference baselines (the space's REFERENCE), and the best of all other trials."""
    direction = plan.objective.direction
    reference = [record for record in records if record.baseline in plan.space.reference]
    others = [record for record in records if record.baseline not in plan.space.reference]
    baseline, best = best_record(reference, direction), best_record(others, direction)
    return Findings(records, confirmed, best, baseline, direction)


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
    write_results(table, everything, plan.objective.value)
    written = [table]
    winner = _winner(plan, findings)
    if winner is not None:
        write_best(folder / "best.json", winner)
        written.append(folder / "best.json")
    picture = folder / "best.png"
    if findings.best is not None and findings.baseline is not None:
        _draw_comparison(plan, findings, picture)
        written.append(picture)
    return written


def _winner(plan: Plan, findings: Findings) -> TrialRecord | None:
    """The trial of the search with the best value, be it a baseline."""
    return best_record(findings.records, plan.objective.direction)


def _last_samples(findings: Findings, number: int) -> tuple[Report, Mapping[str, Any]] | None:
    """The last report of a trial with its samples; of its first confirmation run where there is one."""
    runs = [r for r in findings.confirmed if r.params["candidate"] == number and r.reports]
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
    best = _last_samples(findings, findings.best.number)
    baseline = _last_samples(findings, findings.baseline.number)
    if best is None or baseline is None:
        log.warning("no samples were kept, so %s is not drawn", path)
        return
    if not np.array_equal(best[1]["latents"], baseline[1]["latents"]):
        log.warning("best and baseline were drawn from different latents; %s is not drawn", path)
        return
    figures = json.loads(str(best[1]["teacher_metrics"]))
    nfes = sorted(int(key.partition("@")[2]) for key in best[1] if key.startswith("student@"))
    names = (
        "teacher (Euler)",
        f"baseline\n{findings.baseline.baseline}",
        f"best\ntrial {findings.best.number}",
    )
    sources = (
        (best[1], "teacher", figures),
        (baseline[1], "student", baseline[0].metrics),
        (best[1], "student", best[0].metrics),
    )
    rows, labels = {}, {}
    for name, (arrays, kind, metrics) in zip(names, sources, strict=True):
        if f"{kind}@{nfes[0]}" not in arrays:  # a trial without a teacher
            continue
        rows[name] = {nfe: arrays[f"{kind}@{nfe}"] for nfe in nfes}
        gaps = {nfe: metrics.get(f"teacher_gap@{nfe}") for nfe in nfes}
        labels[name] = {nfe: f"gap {gap:.4f}" for nfe, gap in gaps.items() if gap is not None}
    comparison_grid(rows, path, labels, title=plan.request.study)


def teacher_figures(findings: Findings) -> dict[str, float]:
    """Metrics of the teacher's own Euler steps on the search's latents, where a trial has reported."""
    for record in findings.records:
        if record.reports:
            source = Path(record.reports[-1].artifacts.get("samples", ""))
            if source.is_file():
                with np.load(source) as arrays:
                    figures: dict[str, float] = json.loads(str(arrays["teacher_metrics"]))
                    return figures
    return {}


def show(console: Console, plan: Plan, findings: Findings) -> None:
    """The figures of the search and of the confirmation, with a verdict in words."""
    objective = plan.objective
    counts: dict[str, int] = {}
    for record in findings.records:
        counts[record.status] = counts.get(record.status, 0) + 1
    listed = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"
    console.print(f"\n[bold]{plan.request.study}[/bold]: {len(findings.records)} trials ({listed})")
    lower = "lower" if objective.direction == "minimize" else "higher"
    console.print(f"objective {objective}, {lower} is better\n")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("in the search")
    for name in ("objective", *objective.metrics):
        table.add_column(name, justify="right")
    teacher = teacher_figures(findings)
    rows = [("teacher (Euler)", teacher)] if teacher else []
    marks = {"baseline: ": findings.baseline, "best: ": findings.best}
    for record in findings.records:
        mark = "".join(text for text, chosen in marks.items() if record is chosen)
        if record.status == "completed" and (mark or record.baseline):
            rows.append((f"{mark}{_name(record)}", record.reports[-1].metrics))
    for title, metrics in rows:
        cells = [metrics.get(name, float("nan")) for name in objective.metrics]
        table.add_row(title, f"{objective.value(metrics):.4f}", *(f"{x:.4f}" for x in cells))
    console.print(table)
    for record in findings.records:
        if record.status in ("failed", "diverged"):
            console.print(f"{_name(record)} {record.status}: {record.reason}")
    paired = findings.paired(objective)
    if paired:
        names = ("objective", *objective.metrics)
        _show_pairs(console, findings, [entry for entry in paired if entry.metric in names])
    elif findings.best is None:
        console.print("No trial but the baselines completed; raise --trials, or see the reasons.")
    else:
        console.print("Not confirmed on fresh seeds, so nothing is called better.")


def _name(record: TrialRecord) -> str:
    return f"trial {record.number}" + (f" ({record.baseline})" if record.baseline else "")


def _show_pairs(console: Console, findings: Findings, paired: Sequence[Paired]) -> None:
    """Paired differences on fresh seeds; only what holds on every seed is called better or worse."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("retrained on fresh seeds, fresh latents")
    for entry in paired:
        table.add_column(entry.metric, justify="right")
    table.add_row("baseline, mean", *(f"{entry.baseline_mean:.4f}" for entry in paired))
    table.add_row("best, mean", *(f"{entry.best_mean:.4f}" for entry in paired))
    seeds = list(paired[0].differences)
    for seed in seeds:
        cells = (f"{entry.differences[seed]:+.4f}" for entry in paired)
        table.add_row(f"best - baseline, seed {seed}", *cells)
    table.add_row(
        "best - baseline, mean", *(f"{entry.mean:+.4f}" for entry in paired), style="bold"
    )
    shares = (
        f"{100 * entry.relative:+.1f} %" if entry.relative is not None else "" for entry in paired
    )
    table.add_row("in percent of the baseline", *shares)
    console.print(table)
    words = [f"{entry.metric} {_verdict(entry, findings.direction)}" for entry in paired]
    console.print(
        f"Best against baseline, judged by the sign on all {len(seeds)} seeds: {'; '.join(words)}."
    )


def _verdict(paired: Paired, direction: str) -> str:
    signed = [x if direction == "minimize" else -x for x in paired.differences.values()]
    if all(x < 0 for x in signed):
        return "better"
    return "worse" if all(x > 0 for x in signed) else "undecided"


def show_places(
    console: Console, request: SearchRequest, files: Sequence[Path], command: str
) -> None:
    """Where everything is, and the exact commands that go on from here."""
    uri = request.mlflow_uri
    console.print("\nWhere it is:")
    for path in files:
        console.print(f"  {path}", soft_wrap=True)
    console.print(f"  {request.folder / 'trials'}: checkpoints, samples and models", soft_wrap=True)
    console.print("\nWhat to do next:")
    view = f"mlflow ui --backend-store-uri {uri} --host 127.0.0.1 --port 5000"
    python = Path(sys.executable)
    lines = [
        (
            "compare in MLflow",
            f"open {uri}" if uri.startswith("http") else f"{python.with_name('mlflow')}{view[6:]}",
        ),
        ("resume or repeat this report", command),
        ("extend the search", _extended(request, command)),
        (
            "train the best alone",
            f"{python} scripts/train.py --config {request.folder / 'best.json'} "
            f"--output {request.storage / 'best'}",
        ),
    ]
    for what, line in lines:
        console.print(f"  {what}:\n    {line}", soft_wrap=True)


def _extended(request: SearchRequest, command: str) -> str:
    """The command with half as many trials again."""
    words = shlex.split(command)
    total = str(request.trials + max(4, request.trials // 2))
    if "--trials" in words:
        words[words.index("--trials") + 1] = total
    else:
        words += ["--trials", total]
    return shlex.join(words)


def show_status(
    console: Console,
    request: SearchRequest,
    records: Sequence[TrialRecord],
    lease: LeaseState | None,
) -> None:
    """The trials of a study, and where a driver is at work: who, and how far its trials are."""
    status = read_status(request)
    held = lease is not None and lease.pid is not None
    age = time.time() - status.get("time", 0.0)
    if held and age < STALE_SECONDS:
        assert lease is not None
        console.print(f"{request.study}: running, process {lease.pid} on {lease.host}")
    elif held:
        console.print(
            f"{request.study}: its driver has been silent for {age:.0f} s; was it killed?"
        )
    else:
        console.print(f"{request.study}: no driver at work")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("trial", "what", "state", "images", "objective", "reason"):
        table.add_column(name, overflow="fold")
    running = {row.get("name"): row for row in status.get("running") or []} if held else {}
    for record in records:
        row = running.get(f"trial {record.number}", {})
        images = row.get("images") or (record.reports[-1].images if record.reports else 0)
        of = row.get("of") or record.config["budget"]["images"]
        table.add_row(
            str(record.number),
            record.baseline or "proposed",
            row.get("phase", record.status),
            f"{images:,} / {of:,}",
            "" if record.value is None else f"{record.value:.4f}",
            record.reason,
            style=COLOURS.get(record.status, ""),
        )
    console.print(table)
    for name, row in running.items():
        if not str(name).startswith("trial "):
            phase = row.get("phase", "")
            console.print(f"{name} ({row['what']}): {phase}, {row.get('images', 0):,} images")


def read_status(request: SearchRequest) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((request.folder / STATUS_NAME).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return state
