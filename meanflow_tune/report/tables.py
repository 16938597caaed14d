"""Tables of a search's summary: trials, the front of several objectives, and what fresh seeds say."""

from collections.abc import Mapping

from rich.console import Console

from meanflow_tune.plan.confirm import title
from meanflow_tune.plan.findings import Findings, kind_of
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.quality import quality_of
from meanflow_tune.report.text import counted, figure, make_table
from meanflow_tune.search.analysis.ranking import Row, columns, front
from meanflow_tune.search.analysis.rung_audit import Audit, RungAudit, audit
from meanflow_tune.search.analysis.significance import (
    Interval,
    PairedComparison,
    scores,
)
from meanflow_tune.search.objectives import COST, Objectives, measures
from meanflow_tune.search.pareto import hypervolume, reference_point

SHOWN = 8


def show_search(console: Console, objectives: Objectives, findings: Findings) -> None:
    """The baselines and the best proposed trial, on the search's own seed and latents; above them the
    teacher's Euler steps."""
    shown = columns(objectives)
    table = make_table("in the search", *shown)
    teacher = findings.quality.euler
    if teacher:
        cells = [
            figure(o.value(teacher)) if all(m in teacher for m in o.metrics) else ""
            for o in shown.values()
        ]
        table.add_row("teacher (Euler)", *cells)
    for record in findings.records:
        mark = ""
        if record is findings.reference:
            mark = "reference: "
        elif record is findings.best_proposed:
            mark = "best proposed: "
        if record.status == "completed" and (mark or record.baseline):
            found = measures(record.reports[-1])
            table.add_row(
                f"{mark}{title(record)}", *(figure(o.value(found)) for o in shown.values())
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
            f"{counted(len(best), 'non-dominated trial')}; hypervolume {volume:.4g}, measured from the "
            f"baselines' worst values ({place})."
        )


def show_leader(console: Console, plan: Plan, findings: Findings) -> None:
    """Which trial leads and why, whether it or any was proposed, and which trials may be as good."""
    leader = findings.leader
    if leader is None:
        return
    name = f"leader: trial {leader.number} ({kind_of(leader)})"
    done = [record for record in findings.records if record.status == "completed"]
    if plan.objectives.single is None:
        console.print(
            f"{name}, the trial of the front nearest to its ideal point, with each objective in units "
            "of its spread on the front; best.json holds its configuration."
        )
    elif leader.repeats:
        console.print(
            f"{name}, by paired differences on {len(leader.repeats) + 1} seeds; best.json holds its "
            "configuration."
        )
    elif any(record.repeats for record in done):
        console.print(
            f"{name}, which was not repeated on more seeds; best.json holds its configuration."
        )
    else:
        chance = (
            " Each trial ran on one seed, so part of this order is chance; --repeats trains the "
            "survivors on more seeds."
        )
        console.print(
            f"{name}; best.json holds its configuration.{chance if len(done) > 1 else ''}"
        )
    if text := no_proposal_is_better(plan.objectives, findings):
        console.print(text)
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


def no_proposal_is_better(objectives: Objectives, findings: Findings) -> str:
    """A sentence where the sampler found nothing better than the reference; "" where it did."""
    best, reference = findings.best_proposed, findings.reference
    if best is None or reference is None:
        return ""
    if objectives.single is None:
        found = front(findings.records, objectives)
        if any(record.baseline is None for record in found):
            return ""
        return "No proposed trial is on the front."
    if findings.order.index(best) < findings.order.index(reference):
        return ""
    ours, theirs = (scores(record, objectives.single) for record in (best, reference))
    seeds = [seed for seed in ours if seed in theirs]
    means = [sum(side[s] for s in seeds) / len(seeds) for side in (ours, theirs) if seeds]
    values = [f" {figure(mean)}" for mean in means] or ["", ""]
    on = f" (means over {counted(len(seeds), 'seed')})" if len(seeds) > 1 else ""
    return (
        f"No proposed trial is better than the reference: trial {best.number} has{values[0]}, "
        f"trial {reference.number} ({kind_of(reference)}){values[1]}{on}."
    )


def show_quality(console: Console, objectives: Objectives, findings: Findings) -> None:
    """How good the teacher itself is: it, the students and, for scale, data and noise against held-out
    data. A metric that compares with the teacher does not tell."""
    held_out = findings.quality.held_out
    compares = any(name.startswith("teacher_gap@") for name in objectives.metrics)
    names = list(held_out.get("data", {}))
    if not names:
        if compares and findings.quality:
            console.print(_unknown_quality(held_out))
        return
    table = make_table("against held-out data, lower is better", *names)

    def add(name: str, metrics: Mapping[str, float], nfe: str = "") -> None:
        cells = (metrics.get(f"{metric}{nfe}") for metric in names)
        table.add_row(name, *(f"{x:#.4g}" if x is not None else "" for x in cells))

    add("training data, for scale", held_out["data"])
    if "teacher" in held_out:
        add("teacher (end of ODE)", held_out["teacher"])
    students = (("reference", findings.reference), ("best proposed", findings.best_proposed))
    for mark, record in students:
        if record is None:
            continue
        own = quality_of(record).held_out.get("teacher", {})
        if own and own != held_out.get("teacher"):
            add(f"{mark}'s teacher", own)
        for nfe in findings.quality.nfe:
            add(f"{mark}, NFE {nfe}", record.reports[-1].metrics, f"@{nfe}")
    add("noise", held_out["noise"])
    console.print(table)
    if findings.quality.teacher_is_noise:
        console.print(
            "warning: the end of the teacher's ODE is hardly closer to the data than noise is, so "
            "following this teacher teaches nothing; train it for longer."
        )


def _unknown_quality(held_out: Mapping[str, Mapping[str, float]]) -> str:
    why = (
        "no metric of evaluation.metrics compares with held-out data; add sliced_wasserstein"
        if held_out
        else "these trials were evaluated by an earlier revision"
    )
    return f"The teacher's own quality is unknown ({why}); teacher_gap does not tell whether it is good."


def show_final(console: Console, objectives: Objectives, findings: Findings) -> None:
    """Means and paired differences on fresh seeds of every side."""
    rows, shown = findings.rows, columns(objectives)
    reference = rows[0]
    seeds = max(len(row.seeds) for row in rows)
    table = make_table(f"retrained on {counted(seeds, 'fresh seed')}, fresh latents", *shown)
    for row in rows:
        name = f"reference: {row.name}" if row is reference else row.name
        table.add_row(name, *(_numbers(row.means[column], "", "\n") for column in shown))
    table.add_section()
    for row in rows[1:]:
        if row.against:
            cells = (_difference(row, column) for column in shown)
            table.add_row(f"{row.name} - reference", *cells, style="bold")
    console.print(table)
    for row in rows[1:]:
        if not row.against:
            console.print(f"{row.name} shares no completed seed with the reference.", markup=False)


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
