"""Which models of a search enter the registry, under which name, and what the confirmation says of them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from meanflow_tune.config import TrialConfig
from meanflow_tune.plan import confirm
from meanflow_tune.plan.confirm import title
from meanflow_tune.plan.contrast import OWN, Contrast, contrast_of
from meanflow_tune.plan.findings import Findings
from meanflow_tune.plan.plan import Plan
from meanflow_tune.records import TrialRecord
from meanflow_tune.search.analysis.significance import SEEDS_FOR_LEVEL, Interval
from meanflow_tune.search.objectives import COST, Objectives, SearchObjective

DIGITS = 8
UNCONFIRMED = "nothing was retrained on fresh seeds; --confirm-seeds 6 decides it."
SEVERAL = "several objectives have no single best model."


def model_name(config: TrialConfig, fingerprint: str, objectives: Objectives) -> str:
    """`digits-1f3a9c02-teacher_gap_1_2_4`: data set, data and teacher as a hash, and the objective."""
    origin = config.teacher_run().to_dict() if config.teacher is not None else "from_scratch"
    text = json.dumps([origin, fingerprint], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
    parts = "-".join(_objective(part) for part in objectives.parts)
    return f"{config.data.kind}-{digest}-{parts}"


def _objective(part: SearchObjective) -> str:
    """`teacher_gap_1_2_4`, of a mean that is not geometric `mean_teacher_gap_1_2_4`."""
    by_name: dict[str, list[str]] = {}
    for metric in part.metrics:
        name, _, nfe = metric.partition("@")
        by_name.setdefault(name, []).append(nfe)
    words = ["_".join([name, *(n for n in nfes if n)]) for name, nfes in by_name.items()]
    means = len(part.metrics) > 1 and part.combine == "mean"
    return "_".join([*(["mean"] if means else []), *words]) if words else COST


def config_digest(config: Mapping[str, Any]) -> str:
    """Of a configuration without its seeds, so that the same one is known in another study."""
    kept = {name: value for name, value in config.items() if name not in OWN}
    for path in OWN:
        part, _, name = path.partition(".")
        if name and isinstance(kept.get(part), Mapping):
            kept[part] = {key: value for key, value in kept[part].items() if key != name}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:32]


def registration(plan: Plan, findings: Findings) -> dict[str, Any] | None:
    """For `Tracker.registered`; None where no trial completed."""
    winner = findings.leader
    if winner is None:
        return None
    others = (r for r in findings.order if r.baseline is not None)
    baseline = findings.reference or next(others, None)
    aliases: dict[int, list[str]] = {winner.number: ["candidate"]}
    if baseline is not None:
        aliases.setdefault(baseline.number, []).append("baseline")
    contests = _contests(plan, findings, winner) if plan.objectives.single is not None else {}
    by_number = {record.number: record for record in findings.records}
    name = model_name(plan.examples[0], plan.data_fingerprint, plan.objectives)
    return {
        "name": name,
        "description": (
            f"Students on {plan.examples[0].data.kind}, best by {plan.objectives}. `candidate`: winner of "
            "the last search; `baseline`: the best reference baseline of that search; `champion`: shown to "
            "be better than the champion before it, on the same fresh seeds, at 95 %."
        ),
        "winner": str(winner.number),
        "winner_aliases": aliases[winner.number],
        "versions": [
            {
                "trial": str(number),
                "aliases": names,
                "config": config_digest(by_number[number].config),
                "description": _evidence(plan, by_number[number], winner.number, contests),
            }
            # The winner last, so that the newest version is no worse one.
            for number, names in reversed(aliases.items())
        ],
        "contests": [
            {
                "trial": str(number),
                "aliases": aliases.get(number, []),
                "config": config_digest(by_number[number].config),
                "seeds": contest.seeds,
                "better": contest.measured[0].improves is True,
                "text": _result(contest),
            }
            for number, contest in contests.items()
        ],
        "seeds_for_level": SEEDS_FOR_LEVEL,
        "unconfirmed": SEVERAL if plan.objectives.single is None else UNCONFIRMED,
    }


def _contests(plan: Plan, findings: Findings, winner: TrialRecord) -> dict[int, Contrast]:
    """The winner against each other side of the confirmation, by the number of its trial."""
    given = findings.records, plan.space, plan.objectives, plan.request.confirm
    sides = confirm.sides(*given)
    found: dict[int, Contrast] = {}
    for side in sides:
        if side.candidate.number == winner.number:
            continue
        contest = contrast_of(plan, sides, findings.confirmed, side.candidate, winner)
        if contest is not None and contest.seeds and contest.measured:
            found[side.candidate.number] = contest
    return found


def _result(contest: Contrast) -> str:
    """`objective 0.0640 against 0.0650, difference -0.0010 [-0.0012, -0.0008] on 6 seeds`."""
    one = contest.measured[0]
    change, counted = one.change, contest.seeds
    return (
        f"{one.name} {one.other:.4f} against {one.base:.4f}, difference {change.mean:+.4f} "
        f"{_interval(change)} on {counted} seed{'s' * (counted != 1)}"
    )


def _interval(change: Interval) -> str:
    if change.low is None or change.high is None:
        return "(a single seed has no interval)"
    return f"[{change.low:+.4f}, {change.high:+.4f}]"


def _evidence(
    plan: Plan, record: TrialRecord, winner: int, contests: Mapping[int, Contrast]
) -> str:
    """Markdown: where the model comes from, and what was measured."""
    objectives = plan.objectives
    values: Sequence[float] = record.values or ()
    parts = zip(map(str, objectives.parts), values, strict=False)
    measured = ", ".join(f"{name} {value:.4f}" for name, value in parts)
    lines = [f"{title(record).capitalize()} of study `{plan.request.study}`: {measured}."]
    lines += [f"- against trial {number}: {_result(one)}" for number, one in contests.items()]
    if len(lines) > 1:
        lines.insert(1, f"\nTrial {winner}, the winner, retrained on the same fresh seeds:\n")
    lines.append(
        f"\nInput: `seed` (or `latent`){_label(plan)}; parameter `nfe`. {values_text(plan.examples[0])}"
    )
    return "\n".join(lines)


def _label(plan: Plan) -> str:
    return " and `label`" if plan.examples[0].data.load().classes is not None else ""


def values_text(config: TrialConfig) -> str:
    """What the numbers of a sample mean."""
    return (
        f"Samples are on the scale of the data `{config.data.kind}`, for images from -1 (dark) to 1 "
        "(bright); values are not clipped, and many may lie outside."
    )
