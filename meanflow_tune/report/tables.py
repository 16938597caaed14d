"""Tables of a search's summary: trials, the front of several objectives, and what fresh seeds say."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from meanflow_tune.plan.confirm import title
from meanflow_tune.plan.findings import Findings
from meanflow_tune.plan.plan import Plan
from meanflow_tune.report.text import counted, make_table
from meanflow_tune.search.analysis.ranking import Row, columns, describe_difference, front
from meanflow_tune.search.analysis.rung_audit import Audit, RungAudit, audit
from meanflow_tune.search.analysis.significance import LEVEL, Interval, PairedComparison
from meanflow_tune.search.objectives import COST, Objectives, measures
from meanflow_tune.search.pareto import hypervolume, reference_point

# With fewer seeds, a bootstrap interval covers less than its nominal level.
SEEDS_FOR_LEVEL = 6
SHOWN = 8


def show_search(console: Console, objectives: Objectives, findings: Findings) -> None:
    """The baselines and the best, on the search's own seed and latents; the teacher as a reference."""
    shown = columns(objectives)
    table = make_table("in the search", *shown)
    teacher = teacher_figures(findings)
    if teacher:
        cells = [
            f"{o.value(teacher):.4f}" if all(m in teacher for m in o.metrics) else ""
            for o in shown.values()
        ]
        table.add_row("teacher (Euler)", *cells)
    for record in findings.records:
        mark = ""
        if record is findings.baseline:
            mark = "baseline: "
        elif record is findings.best:
            mark = "best: "
        if record.status == "completed" and (mark or record.baseline):
            found = measures(record.reports[-1])
            table.add_row(
                f"{mark}{title(record)}", *(f"{o.value(found):.4f}" for o in shown.values())
            )
    console.print(table)


def show_front(console: Console, objectives: Objectives, findings: Findings) -> None:
    """The non-dominated trials and their hypervolume."""
    best = front(findings.records, objectives)
    if not best:
        return
    names = [str(part) for part in objectives.parts]
    table = make_table("Pareto front", *names)
    for record in best:
        values = objectives.values(record.reports[-1])
        table.add_row(title(record), *(f"{value:.4f}" for value in values))
    console.print(table)
    directions = objectives.directions
    worst = [
        objectives.values(r.reports[-1])
        for r in findings.records
        if r.status == "completed" and r.baseline is not None
    ]
    if worst:
        corner = reference_point(worst, directions)
        points = [objectives.values(record.reports[-1]) for record in best]
        place = ", ".join(f"{n} {x:.4f}" for n, x in zip(names, corner, strict=True))
        volume = hypervolume(points, corner, directions)
        console.print(
            f"{len(best)} non-dominated trials; hypervolume {volume:.4g}, measured from the "
            f"baselines' worst values ({place})."
        )


def show_winner(console: Console, plan: Plan, findings: Findings) -> None:
    """Which trial best.json holds and why, and which trials may be as good."""
    winner = findings.winner
    if winner is None:
        return
    if plan.objectives.single is None:
        console.print(
            f"best.json holds {title(winner)}: the trial of the front nearest to its ideal point, with "
            "each objective in units of its spread on the front."
        )
        return
    done = [record for record in findings.records if record.status == "completed"]
    if not winner.repeats:
        if any(record.repeats for record in done):
            console.print(f"best.json holds {title(winner)}, which was not repeated on more seeds.")
        elif len(done) > 1:
            console.print(
                f"best.json holds {title(winner)}. Each trial ran on one seed, so part of this order "
                "is chance; --repeats trains the survivors on more seeds."
            )
        return
    console.print(
        f"best.json holds {title(winner)}, the leader by paired differences on "
        f"{len(winner.repeats) + 1} seeds."
    )
    ahead = [c for c in findings.rivals if _ahead_on_first(c, plan.objective.direction)]
    for contest in findings.rivals[:SHOWN]:
        first = f" (trial {contest.other} was ahead on the first one)" if contest in ahead else ""
        console.print(
            f"trials {contest.trial} and {contest.other} cannot be told apart: difference "
            f"{_numbers(contest.interval, '+', ' ')} on {contest.interval.count} seeds{first}"
        )
    if len(findings.rivals) > SHOWN:
        console.print(
            f"and {len(findings.rivals) - SHOWN} more trials cannot be told apart from it"
        )


def show_final(console: Console, objectives: Objectives, findings: Findings) -> None:
    """Means and paired differences on fresh seeds; only an interval without 0 is called better or worse."""
    rows, shown = findings.rows, columns(objectives)
    reference = rows[0]
    seeds = max(len(row.seeds) for row in rows)
    table = make_table(f"retrained on {counted(seeds, 'fresh seed')}, fresh latents", *shown)
    for row in rows:
        name = f"baseline: {row.name}" if row is reference else row.name
        table.add_row(name, *(_numbers(row.means[column], "", "\n") for column in shown))
    table.add_section()
    for row in rows[1:]:
        if row.against:
            cells = (_difference(row, column) for column in shown)
            table.add_row(f"{row.name} - baseline", *cells, style="bold")
    console.print(table)
    for row in rows[1:]:
        if not row.against:
            console.print(f"{row.name} shares no completed seed with the baseline.")
            continue
        words = [
            f"{c} {describe_difference(row.against[c], o.direction)}" for c, o in shown.items()
        ]
        console.print(f"{row.name} against the baseline {reference.name}: {'; '.join(words)}.")
    console.print(_how_sure([row for row in rows[1:] if row.against]))


def show_audit(console: Console, plan: Plan, findings: Findings) -> None:
    """Whether the rungs predicted how trials end, with advice where the first one did not."""
    if plan.rungs is None:
        return
    for objective in plan.objectives.parts:
        if objective.metrics == (COST,):
            continue
        found = audit(findings.records, objective)
        if not found.rungs:
            continue
        name = f" of {objective}" if plan.objectives.single is None else ""
        for line in audit_lines(found):
            console.print(f"rungs{name}: {line}")


def audit_lines(found: Audit) -> list[str]:
    """The audit in words: one line of figures, and one of advice where there is any."""
    lines = ["; ".join(_rung_words(rung) for rung in found.rungs)]
    if any(rung.correlation is not None and not rung.unselected for rung in found.rungs):
        lines.append(
            "only trials that the rungs let through are counted, and their correlation is lower than "
            "that of all trials; --protect sets a share of trials that is never stopped"
        )
    if found.advice is not None:
        lines.append(f"warning: {found.advice}")
    return lines


def teacher_figures(findings: Findings) -> dict[str, float]:
    """Metrics of the teacher's own Euler steps on the search's latents, once a trial has reported."""
    for record in findings.records:
        if record.reports:
            source = Path(record.reports[-1].artifacts.get("samples", ""))
            if source.is_file():
                with np.load(source) as arrays:
                    figures: dict[str, float] = json.loads(str(arrays["teacher_metrics"]))
                    return figures
    return {}


def _numbers(found: Interval, sign: str, between: str) -> str:
    """A mean and its interval; sign: "+" for a difference, else ""."""
    mean = f"{found.mean:{sign}.4f}"
    if found.low is None or found.high is None:
        return mean
    return f"{mean}{between}[{found.low:{sign}.4f}, {found.high:{sign}.4f}]"


def _difference(row: Row, column: str) -> str:
    share = row.relative[column]
    percent = f"\n{100 * share:+.1f} %" if share is not None else ""
    return _numbers(row.against[column], "+", "\n") + percent


def _how_sure(rows: Sequence[Row]) -> str:
    """How far an interval over this number of seeds can be trusted."""
    count = min((next(iter(row.against.values())).count for row in rows), default=0)
    if count == 1:
        return "One seed gives no interval, so nothing is called better; see --confirm-seeds."
    if count >= SEEDS_FOR_LEVEL:
        return f"Intervals are of paired differences over {count} seeds, at {LEVEL:.0%}."
    chance, less = 2**count, "" if count <= 4 else "hardly less than "
    return (
        f"With {count} seeds an interval is {less}their range and contains the true difference in at "
        f"most {1 - 2 ** (1 - count):.0%} of cases: without any difference, chance alone says better "
        f"once in {chance} times. --confirm-seeds {SEEDS_FOR_LEVEL} makes it {LEVEL:.0%}."
    )


def _ahead_on_first(contest: PairedComparison, direction: str) -> bool:
    first = next(iter(contest.differences.values()))
    return first > 0 if direction == "minimize" else first < 0


def _rung_words(rung: RungAudit) -> str:
    if rung.correlation is None:
        return f"{rung.images:,} images: too few trials ran to the end to judge it ({rung.count})"
    return (
        f"{rung.images:,} images: rank correlation with the final value {rung.correlation:+.2f} "
        f"[{rung.low:+.2f}, {rung.high:+.2f}] over {rung.count} trials"
    )
