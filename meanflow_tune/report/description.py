"""The description of a search in MLflow: its question, what it found, how sure that is, how to resume."""

from collections.abc import Iterable, Sequence

from meanflow_tune.plan.confirm import title
from meanflow_tune.plan.contrast import Measured, verdict
from meanflow_tune.plan.findings import Findings, kind_of
from meanflow_tune.plan.plan import Plan
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.text import better, counted, figure
from meanflow_tune.search.analysis.ranking import columns
from meanflow_tune.search.analysis.significance import SEEDS_FOR_LEVEL, Interval
from meanflow_tune.search.objectives import measures


def describe(plan: Plan, findings: Findings, command: str, answer: Sequence[str] = ()) -> str:
    """Markdown. answer: sentences that come first."""
    parts = [f"**{_plain(plan.space.goal)}**", *(_plain(sentence) for sentence in answer)]
    parts.append("; ".join(f"Objective: {_plain(better(one))}" for one in plan.objectives.parts))
    if not findings.order:
        parts.append("No trial completed yet.")
    else:
        parts += [_in_search(plan, findings), *_confirmed(plan, findings, bool(answer))]
        parts.append(
            "**Look at** `best.png` (Artifacts): the same latents by teacher, reference and leader. The page "
            "of runs has the samples of every trial side by side (chart view, Image grid), and its charts."
        )
    parts.append(f"Resume, or repeat this report:\n\n```console\n{command}\n```")
    return "\n\n".join(parts) + "\n"


def _in_search(plan: Plan, findings: Findings) -> str:
    """Leader, best proposed and reference on the search's own seed."""
    shown = columns(plan.objectives)
    roles: dict[str, TrialRecord | None] = {
        "leader": findings.leader,
        "best proposed": findings.best_proposed,
        "reference": findings.reference,
    }
    rows = []
    for role, record in roles.items():
        if record is not None and record.reports:
            found = measures(record.reports[-1])
            values = [figure(part.value(found)) for part in shown.values()]
            rows.append([role, f"{title(record)}, {kind_of(record)}", *values])
    done = sum(record.status == "completed" for record in findings.records)
    heading = (
        f"In the search ({counted(len(findings.records), 'trial')}, {done} completed, one seed)"
    )
    return f"{heading}:\n\n{_table(['', 'trial', *shown], rows)}"


def _confirmed(plan: Plan, findings: Findings, answered: bool) -> list[str]:
    """What fresh seeds say; one sentence where nothing was retrained. answered: costs are in the answer."""
    if not findings.rows:
        return [
            "Not retrained on fresh seeds, so nothing here is called better than anything else; "
            f"`--confirm-seeds {SEEDS_FOR_LEVEL}` does that."
        ]
    shown = columns(plan.objectives)
    reference, *others = findings.rows
    seeds = max(len(row.seeds) for row in findings.rows)
    rows = [[row.name, *(_numbers(row.means[name]) for name in shown)] for row in findings.rows]
    rows[0][0] = f"reference: {reference.name}"
    for row in others:
        cells = []
        for name, part in shown.items():
            change = row.against.get(name)
            cells.append(
                f"{_numbers(change, '+')} **{verdict(change, part.direction)}**" if change else ""
            )
        rows.append([f"{row.name} - reference", *cells])
    heading = f"Retrained on {counted(seeds, 'fresh seed')}, on latents the search never used"
    found = [f"{heading}:\n\n{_table(['', *shown], rows)}"]
    if not answered and findings.winner is not None and findings.winner.seeds:
        costs = _costs(findings.winner.of("cost"))
        if costs:
            found.append(
                f"Cost of {findings.winner.other} against {findings.winner.base}: {costs}."
            )
    if seeds < SEEDS_FOR_LEVEL:
        found.append(
            f"With {counted(seeds, 'seed')} an interval is their range and holds in fewer than 95 % of "
            f"cases; `--confirm-seeds {SEEDS_FOR_LEVEL}` makes it 95 %."
        )
    return found


def _costs(costs: Iterable[Measured]) -> str:
    return ", ".join(f"{one.name} {one.other:.4g} ({one.base:.4g})" for one in costs)


def _numbers(value: Interval, sign: str = "") -> str:
    """`0.0640 [0.0630, 0.0650]`."""
    if value.low is None or value.high is None:
        return f"{value.mean:{sign}.4f}"
    return f"{value.mean:{sign}.4f} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _plain(text: str) -> str:
    """Text in which only our own marks are Markdown."""
    for mark in ("|", "<", "_", "["):
        text = text.replace(mark, f"\\{mark}")
    return text
