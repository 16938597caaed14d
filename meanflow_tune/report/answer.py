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
MANY_TRIALS = 100  # with fewer, importances of conditional parameters rest on a handful of them
ALIKE = 0.1  # relative difference of compute below which it is called the same
# What is said of a quantity by whether it improves, at the level and with fewer seeds.
OUTCOMES = {
    True: ("better", "leans better"),
    False: ("worse", "leans worse"),
    None: ("inconclusive",) * 2,
}
EFFECTS = {
    True: ("helps", "seems to help"),
    False: ("hurts", "seems to hurt"),
    None: ("inconclusive",) * 2,
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

    @property
    def sentences(self) -> tuple[str, ...]:
        """All that was found, most important first, each part after the winner below its heading."""
        asked = () if self.question is None else (self.question, *self.factor)
        mattered = ("What mattered?", *self.insight) if self.insight else ()
        sure = ("How sure is it?", *self.sure) if self.sure else ()
        return (*self.winner, *asked, *mattered, *sure)


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
    """`better`, `worse` or `inconclusive`; `leans better` where `seeds` are too few for the level."""
    return OUTCOMES[measured.improves][seeds < SEEDS_FOR_LEVEL]


def effect(measured: Measured, seeds: int) -> str:
    """`helps`, `hurts` or `inconclusive`; `seems to help` where `seeds` are too few for the level."""
    return EFFECTS[measured.improves][seeds < SEEDS_FOR_LEVEL]


def percent(measured: Measured) -> str:
    """`-13.6 %` of the base; the difference itself where the base is 0."""
    if measured.relative is None:
        return f"{measured.change.mean:+.4g}"
    return f"{_digits(100 * measured.relative)} %"


def _digits(value: float) -> str:
    """A percentage with one digit after the point, two where one would leave 0.0."""
    return f"{value:+.1f}" if abs(value) >= 0.1 else f"{value:+.2f}"


def change(measured: Measured) -> str:
    """`-13.6 [-15.4, -11.8]`: the paired difference in percent of the base, with its interval."""
    low, high, base = measured.change.low, measured.change.high, abs(measured.base)
    mean = percent(measured).removesuffix(" %")
    if low is None or high is None or not base:
        return mean
    return f"{mean} [{_digits(100 * low / base)}, {_digits(100 * high / base)}]"


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


def _compute(contrast: Contrast) -> tuple[Measured | None, str]:
    """The measured seconds of GPUs, else of processors, and whose they are; None where neither is known."""
    costs = {one.name: one for one in contrast.of("cost")}
    if "gpu_seconds" in costs:
        return costs["gpu_seconds"], "GPU"
    return costs.get("cpu_seconds"), "processor"


def cost_in_words(contrast: Contrast) -> str:
    """Whether both saw the same images and took the same compute."""
    base, other = contrast.images
    images = (
        f"the same images ({base:,} each)"
        if base == other
        else f"{other:,} images against {base:,}"
    )
    costs = {one.name: one for one in contrast.of("cost")}
    seconds, what = _compute(contrast)
    if seconds is None or seconds.base <= 0.0:
        return images
    ratio = seconds.other / seconds.base
    same = "about the same compute" if abs(ratio - 1.0) <= ALIKE else "not the same compute"
    step = costs.get("step_ms")
    steps = "" if step is None else f", {step.other:.3g} against {step.base:.3g} ms per step"
    return (
        f"{images}, {same}: {seconds.other:.3g} against {seconds.base:.3g} {what} seconds, "
        f"{ratio:.2f} times{steps}"
    )


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
        verb = "beats" if seeds >= SEEDS_FOR_LEVEL else "is ahead of"
        head = f"{other} {verb} the reference, {contrast.base}"
    elif first.improves is None and seeds > 1:
        head = f"{other} cannot be told apart from the reference, {contrast.base}"
    else:
        head = f"Nothing is ahead of the reference, {contrast.base}; the best other one is {other}"
    where = f"{counted(seeds, 'fresh seed')}" if seeds else "the search's one seed"
    figures = f"{figure(first.other)} instead of {figure(first.base)}"
    lines = [f"{head}: {first.name} {change(first)} %, {figures}, on {where}."]
    if contrast.differences:
        lines.append(
            f"Its settings (in parentheses the reference's): {settings_in_words(contrast)}."
        )
    if parts:
        lines.append(f"By metric, at the number of evaluations after @: {_listed(parts, seeds)}.")
    if quality := contrast.of("quality"):
        lines.append(f"Against held-out data: {_grouped(quality, seeds)}.{_scale(findings)}")
    return [*lines, f"Cost: {cost_in_words(contrast)}."]


def _named(findings: Findings, number: int) -> str:
    record = next(record for record in findings.records if record.number == number)
    return f"Trial {number} ({kind_of(record)})"


def _listed(measured: Sequence[Measured], seeds: int) -> str:
    return ", ".join(f"{one.name} {percent(one)} ({outcome(one, seeds)})" for one in measured)


def _grouped(measured: Sequence[Measured], seeds: int) -> str:
    """By outcome, since metrics of quality often disagree: `leans worse in frechet_pixels@1 +8.2 %, ...`."""
    groups: dict[str, list[str]] = {}
    for one in measured:
        groups.setdefault(outcome(one, seeds), []).append(f"{one.name} {percent(one)}")
    listed = "; ".join(f"{said} in {', '.join(names)}" for said, names in groups.items())
    disagree = len({one.improves for one in measured} - {None}) > 1
    return f"{listed}; the metrics disagree" if disagree else listed


def _scale(findings: Findings) -> str:
    """What the training data themselves have, below which a difference says little."""
    data = findings.quality.held_out.get("data", {})
    listed = ", ".join(f"{name} {value:.4g}" for name, value in data.items())
    return (
        f" For scale, training data have {listed}: at that level a difference says little."
        if listed
        else ""
    )


def settings_in_words(contrast: Contrast) -> str:
    """`losses.backward.share 0.426 (1), ...`: those that differ, with the base's value where it has one."""
    return ", ".join(
        f"{one.setting} {_value(one.other)}"
        + ("" if one.base is None else f" ({_value(one.base)})")
        for one in contrast.differences
        if one.other is not None
    )


def _value(value: object) -> str:
    return short(value) or "none"


def _factor(plan: Plan, findings: Findings, rungs: Sequence[Activity]) -> list[str]:
    question = plan.space.question
    if question is None:
        return []
    lines = [_pair(pair, question.factor) for pair in findings.pairs]
    if lines:
        said = (f"{effect(p.of('objective')[0], p.seeds)} for {p.subject}" for p in findings.pairs)
        lines.insert(0, f"In short, by the objective: {', '.join(said)}.")
    else:
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
    added = [f"{d.setting} {_value(d.other)}" for d in pair.differences if d.base is None]
    how = f" ({', '.join(added)})" if added else ""
    return (
        f"{pair.subject}, with vs. without {factor}{how}: {', '.join([head, *rest])}{_price(pair)}."
    )


def _price(pair: Contrast) -> str:
    """What the factor costs in compute, where that was measured."""
    seconds, what = _compute(pair)
    if seconds is None or seconds.relative is None:
        return ""
    return f"; it costs {percent(seconds)} {what} seconds"


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
        f"{shares} (parameters of the space; PED-ANOVA, shares of all importance{rough})."
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
    return (
        f"--confirm-seeds {SEEDS_FOR_LEVEL}",
        f"train {SEEDS_FOR_LEVEL} fresh seeds, so that intervals hold in {LEVEL:.0%} of cases",
    )
