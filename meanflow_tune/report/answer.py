"""The answer of a search in plain sentences: what won, by how much, how sure, at what cost, and whether
the factor in question helped.

The terminal, MLflow's description and the report page show the same sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from meanflow_tune.plan.confirm import title
from meanflow_tune.plan.contrast import Contrast, Measured
from meanflow_tune.plan.findings import Findings, kind_of
from meanflow_tune.plan.insight import Insight
from meanflow_tune.plan.plan import Plan
from meanflow_tune.report.text import counted, figure, short
from meanflow_tune.search.analysis.activity import Activity
from meanflow_tune.search.analysis.significance import LEVEL, SEEDS_FOR_LEVEL

MOST_IMPORTANT = 5
# What a reader wants to see beside the objective, most telling first.
QUALITY = ("frechet_features", "sliced_wasserstein")
MANY_TRIALS = 100  # with fewer, importances of conditional parameters rest on a handful of them
ALIKE = 0.1  # relative difference of compute below which it is called the same
# What is said of a quantity by whether it improves, at the level and with fewer seeds.
OUTCOMES = {
    True: ("better", "leans better"),
    False: ("worse", "leans worse"),
    None: ("unclear",) * 2,
}
EFFECTS = {
    True: ("helps", "seems to help"),
    False: ("hurts", "seems to hurt"),
    None: ("cannot be told",) * 2,
}


@dataclass(frozen=True)
class Answer:
    """Sentences without markup. winner: what won against the reference; question: of the space, None without
    one; factor: the answer to it; insight: what mattered among the parameters; sure: what the number of seeds
    can say.

    next_step: the option that makes it surer, and what that does; None where there is none.
    """

    winner: tuple[str, ...]
    question: str | None
    factor: tuple[str, ...]
    insight: tuple[str, ...]
    sure: tuple[str, ...]
    next_step: tuple[str, str] | None


def answer(plan: Plan, findings: Findings, insight: Insight) -> Answer:
    """The answer as far as it is known."""
    question = plan.space.question
    return Answer(
        winner=tuple(_winner(findings)),
        question=question.text if question is not None else None,
        factor=tuple(_factor(plan, findings, insight.rungs)),
        insight=tuple(_insight(insight)),
        sure=tuple(_sure(findings)),
        next_step=_next_step(plan, findings),
    )


def outcome(measured: Measured, seeds: int) -> str:
    """`better`, `worse` or `unclear`; `leans better` where `seeds` are too few for the level."""
    return OUTCOMES[measured.improves][seeds < SEEDS_FOR_LEVEL]


def effect(measured: Measured, seeds: int) -> str:
    """`helps`, `hurts` or `cannot be told`; `seems to help` where `seeds` are too few for the level."""
    return EFFECTS[measured.improves][seeds < SEEDS_FOR_LEVEL]


def percent(measured: Measured) -> str:
    """`-13.6 %` of the base; the difference itself where the base is 0."""
    if measured.relative is None:
        return f"{measured.change.mean:+.4g}"
    return f"{100 * measured.relative:+.1f} %"


def change(measured: Measured) -> str:
    """`-13.6 [-15.4, -11.8]`: the paired difference in percent of the base, with its interval."""
    low, high, base = measured.change.low, measured.change.high, abs(measured.base)
    mean = percent(measured).removesuffix(" %")
    if low is None or high is None or not base:
        return mean
    return f"{mean} [{100 * low / base:+.1f}, {100 * high / base:+.1f}]"


def how_sure(seeds: int) -> str:
    """What `seeds` paired seeds can say."""
    if seeds == 0:
        return "Each ran once, on the search's seed, by which they were chosen, so part of this is chance."
    if seeds == 1:
        return "One fresh seed gives no interval, so nothing is called better."
    if seeds >= SEEDS_FOR_LEVEL:
        return f"Intervals are of paired differences over {seeds} fresh seeds, at {LEVEL:.0%}."
    chance = 2**seeds
    return (
        f"{seeds} seeds show a direction and prove nothing: without any difference, chance alone makes a "
        f"number lean to better once in {chance} times, and to worse as often. An interval is the range "
        f"of the seeds, which contains the true difference in at most {1 - 2 ** (1 - seeds):.0%} of cases."
    )


def cost_in_words(contrast: Contrast) -> str:
    """Whether both saw the same images and took the same compute."""
    base, other = contrast.images
    images = (
        f"the same images ({base:,} each)"
        if base == other
        else f"{other:,} images against {base:,}"
    )
    costs = {one.name: one for one in contrast.of("cost")}
    seconds = costs.get("gpu_seconds") or costs.get("cpu_seconds")
    if seconds is None or seconds.base <= 0.0:
        return images
    what = "GPU" if seconds.name == "gpu_seconds" else "processor"
    ratio = seconds.other / seconds.base
    same = "about the same compute" if abs(ratio - 1.0) <= ALIKE else "not the same compute"
    step = costs.get("step_ms")
    steps = "" if step is None else f", {step.other:.3g} against {step.base:.3g} ms per step"
    return (
        f"{images}, {same}: {seconds.other:.3g} against {seconds.base:.3g} {what} seconds, "
        f"{ratio:.2f} times{steps}"
    )


def shown_quality(contrast: Contrast) -> list[Measured]:
    """One metric against held-out data, at each NFE: the first of QUALITY that was measured, else any."""
    found = contrast.of("quality")
    names = [one.name.partition("@")[0] for one in found]
    chosen = next((name for name in (*QUALITY, *names) if name in names), None)
    return [one for one, name in zip(found, names, strict=True) if name == chosen]


def _winner(findings: Findings) -> list[str]:
    leader, reference, contrast = findings.leader, findings.reference, findings.winner
    if leader is None:
        return ["No trial completed, so there is no winner."]
    if reference is None:
        return [f"{_named(findings, leader.number)} leads; no baseline of the reference completed."]
    if contrast is None:
        return [f"Only the reference, {title(reference)}, completed; there is nothing to compare."]
    seeds, (first, *parts) = contrast.seeds, contrast.of("objective")
    other = _named(findings, contrast.trials[1])
    wins = first.improves if seeds > 1 else findings.leader is not reference
    if wins:
        verb = "beats" if seeds >= SEEDS_FOR_LEVEL else "leads"
        head = f"{other} {verb} the reference, {contrast.base}"
    elif first.improves is None and seeds > 1:
        head = f"{other} cannot be told from the reference, {contrast.base}"
    else:
        head = f"Nothing leads the reference, {contrast.base}; the best other one is {other}"
    where = f"{counted(seeds, 'fresh seed')}" if seeds else "the search's one seed"
    figures = f"{figure(first.other)} instead of {figure(first.base)}"
    lines = [f"{head}: {first.name} {change(first)} %, {figures}, on {where}."]
    if parts:
        lines.append(f"By metric: {_listed(parts, seeds)}.")
    if quality := shown_quality(contrast):
        lines.append(f"Against held-out data: {_listed(quality, seeds)}.")
    return [*lines, f"Cost: {cost_in_words(contrast)}."]


def _named(findings: Findings, number: int) -> str:
    record = next(record for record in findings.records if record.number == number)
    return f"Trial {number} ({kind_of(record)})"


def _listed(measured: Sequence[Measured], seeds: int) -> str:
    return ", ".join(f"{one.name} {percent(one)} ({outcome(one, seeds)})" for one in measured)


def _factor(plan: Plan, findings: Findings, rungs: Sequence[Activity]) -> list[str]:
    question = plan.space.question
    if question is None:
        return []
    lines = [_pair(pair, question.factor) for pair in findings.pairs]
    if not lines:
        asked = plan.request.question and plan.request.confirm and plan.request.confirm_seeds
        lines.append(
            "Not answered: no pair with and without it has completed on a fresh seed."
            if asked
            else "Not asked: --no-question, --confirm 0 or --confirm-seeds 0 leaves its pairs out."
        )
    each = [
        f"at {rung.images:,} images {rung.stopped_with} of the {rung.stopped} stopped proposals had "
        f"{question.factor}, and {rung.passed_with} of the {rung.passed} that went on"
        + (f"; {rung.ramping} stopped before their ramps were over" if rung.ramping else "")
        for rung in rungs
    ]
    if each:
        lines.append(f"In the search: {'; '.join(each)}.")
    return lines


def _pair(pair: Contrast, factor: str) -> str:
    first, *parts = pair.of("objective")
    rest = [f"{one.name} {percent(one)} ({effect(one, pair.seeds)})" for one in parts]
    head = f"{first.name} {change(first)} % ({effect(first, pair.seeds)})"
    return f"{pair.subject}, with against without {factor}: {', '.join([head, *rest])}."


def _sure(findings: Findings) -> list[str]:
    """What the seeds of the winner can say, and those of the pairs where they are fewer."""
    if findings.winner is None:
        return []
    seeds = [findings.winner.seeds, *(pair.seeds for pair in findings.pairs)]
    fewest = min(seeds)
    lines = [how_sure(seeds[0])]
    return lines if fewest == seeds[0] else [*lines, f"Of the pairs: {how_sure(fewest)}"]


def _insight(insight: Insight) -> list[str]:
    found = insight.influence
    if found is None or not found.importances:
        return []
    named = list(found.importances.items())[:MOST_IMPORTANT]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in named)
    rough = "; a rough guide with so few trials" if found.count < MANY_TRIALS else ""
    lines = [
        f"What set the best {found.quantile:.0%} of {found.count} trials apart at {found.images:,} images: "
        f"{shares} (PED-ANOVA, shares of all importance{rough})."
    ]
    for one in found.boundaries:
        lines.append(
            f"The best {one.count} trials lie at the {one.at} end of {one.name}: {short(one.typical)} in "
            f"the middle, with the bound at {short(one.bound)}; a wider range may be better."
        )
    return lines


def _next_step(plan: Plan, findings: Findings) -> tuple[str, str] | None:
    winner = [findings.winner] if findings.winner is not None else []
    seeds = min((contrast.seeds for contrast in (*findings.pairs, *winner)), default=None)
    if seeds is None or seeds >= SEEDS_FOR_LEVEL:
        return None
    if not plan.request.confirm:
        return "--confirm 1", "confirm it on fresh seeds"
    return f"--confirm-seeds {SEEDS_FOR_LEVEL}", f"make the answer hold at {LEVEL:.0%}"
