"""The answer in words: what leads, what cannot be told, whether the factor helps, and what to do next."""

from dataclasses import replace
from pathlib import Path

import pytest

from meanflow_tune.plan import confirm
from meanflow_tune.plan.confirm import Entry
from meanflow_tune.plan.findings import find
from meanflow_tune.plan.insight import Insight
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.report.answer import Answer, answer
from meanflow_tune.search.analysis.activity import Activity
from meanflow_tune.search.analysis.influence import Boundary, Influence
from tests.support.confirmation import FACTOR, GAP, SEARCH, SEARCH_SEED, SPACE, run


def asked(
    confirmed: list[TrialRecord], insight: Insight | None = None, **changes: object
) -> Answer:
    request = SearchRequest(
        study="toy", trials=8, storage=Path("none"), seed=SEARCH_SEED, **changes
    )
    space = replace(SPACE, question=FACTOR)
    plan = Plan(request, space, GAP, lambda trial: {}, (), "", None)
    return answer(plan, find(plan, SEARCH, confirmed), insight or Insight())


def confirmed(count: int, *gaps: float) -> list[TrialRecord]:
    """On `count` seeds: the reference without and with the factor, then trial 5 without and with it."""
    found: list[TrialRecord] = []
    for index, seed in enumerate(confirm.fresh_seeds(SEARCH_SEED, count)):
        for trial, switched, gap in zip((1, 1, 5, 5), (True, False) * 2, gaps, strict=True):
            made = run(Entry(trial, seed, switched=switched), gap, len(found))
            metrics = {
                "gap@1": gap + 0.01 * index,
                "frechet_features@1": gap,
                "frechet_pixels@1": gap,
            }
            report = Report(100, metrics, {"cpu_seconds": 10 * gap, "step_ms": 2.0}, 0.0)
            found.append(replace(made, reports=(report,)))
    return found


def test_two_seeds_lean_and_six_decide() -> None:
    two, six = (asked(confirmed(count, 1.0, 0.9, 0.8, 0.5)) for count in (2, 6))
    assert two.question == "Does it help?"
    assert two.winner[0].startswith(
        "Trial 5 (proposed) is ahead of the reference, trial 1 (mid): gap@1 "
    )
    assert "on 2 fresh seeds" in two.winner[0]
    assert (
        "Against held-out data: leans better in frechet_features@1 -44.4 %, frechet_pixels@1 -44.4 %."
        in two.winner
    )
    assert two.factor[1].startswith("trial 1 (mid), with vs. without an odd mark: gap@1 -")
    assert two.factor[1].endswith("% (seems to help); it costs -10.0 % processor seconds.")
    assert "prove nothing" in two.sure[0]
    assert two.next_step == (
        "--confirm-seeds 6",
        "train 6 fresh seeds, so that intervals hold in 95% of cases",
    )
    assert six.winner[0].startswith("Trial 5 (proposed) beats the reference, trial 1 (mid)")
    assert six.factor[2] == (
        "trial 5, with vs. without an odd mark: gap@1 -36.4 [-36.4, -36.4] % (helps); it costs "
        "-37.5 % processor seconds."
    )
    assert "at 95%" in six.sure[0]
    assert six.next_step is None


def test_harm_and_what_cannot_be_told() -> None:
    worse = asked(confirmed(6, 0.5, 0.9, 0.8, 0.8))
    assert worse.factor[1].endswith("% (hurts); it costs +80.0 % processor seconds.")
    assert worse.factor[2].endswith(
        "gap@1 +0.00 [+0.00, +0.00] % (inconclusive); it costs +0.00 % processor seconds."
    )


def test_metrics_of_quality_that_disagree_are_all_named() -> None:
    found = []
    for made in confirmed(2, 1.0, 0.9, 0.8, 0.5):
        report = made.reports[0]
        metrics = report.metrics | {"frechet_pixels@1": 2.0 - report.metrics["frechet_features@1"]}
        found.append(replace(made, reports=(replace(report, metrics=metrics),)))
    line = next(line for line in asked(found).winner if line.startswith("Against held-out data"))
    assert "leans better in frechet_features@1 -44.4 %" in line
    assert "leans worse in frechet_pixels@1 +36.4 %" in line
    assert line.endswith("; the metrics disagree.")


def test_cost_says_whether_images_and_compute_are_the_same() -> None:
    found = asked(confirmed(2, 1.0, 0.9, 0.8, 0.5))
    assert (
        "Cost: the same images (100 each), not the same compute: 5 against 9 processor seconds, 0.56 "
        "times, 2 against 2 ms per step." in found.winner
    )
    assert any("about the same compute" in x for x in asked(confirmed(2, 1, 0.9, 1, 0.92)).winner)


def test_unconfirmed_and_unasked_say_so() -> None:
    bare = asked([])
    assert "by which they were chosen, so part of this is chance" in bare.sure[0]
    assert bare.factor == (
        "Not answered: no pair with and without it has completed on a fresh seed.",
    )
    assert "--no-question" in asked([], question=False).factor[0]
    assert asked([], confirm=0).next_step == ("--confirm 1", "confirm it on fresh seeds")


@pytest.mark.parametrize(("ramping", "said"), [(0, False), (3, True)])
def test_what_the_rungs_stopped_and_what_mattered(ramping: int, said: bool) -> None:
    edge = Boundary("rate", "high", 0.01, 0.0095, 5)
    insight = Insight(
        Influence(50, 31, 0.16, {"rate": 0.6, "share": 0.4}, (edge,)),
        (Activity(50, 9, 6, 3, 2, ramping),),
    )
    found = asked([], insight)
    (rungs,) = found.factor[1:]
    assert rungs.startswith(
        "In the search: at 50 images 6 of the 9 stopped proposals had an odd mark,"
    )
    assert "2 of the 3 that went on" in rungs
    assert ("3 stopped before their ramps were over" in rungs) is said
    assert found.insight[0].startswith(
        "What set the best 16% of 31 trials apart at 50 images: rate 60%"
    )
    assert "the high end of rate: 0.0095 in the middle, with the bound at 0.01" in found.insight[1]


def test_all_sentences_stand_below_their_headings() -> None:
    found = asked(confirmed(2, 1.0, 0.9, 0.8, 0.5))
    listed = list(found.sentences)
    assert listed[: len(found.winner)] == list(found.winner)
    place = listed.index("Does it help?")
    assert listed[place + 1] == found.factor[0]
    assert listed[listed.index("How sure is it?") + 1] == found.sure[0]
    assert "What mattered?" not in listed, "nothing is known of it"
