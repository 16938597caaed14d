"""Each section says what its records say: numbers, reasons, and sentences where there is nothing."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.plan import confirm
from meanflow_tune.plan.confirm import Entry
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.page.document import SECTIONS
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.sections.answer_section import answer_section
from meanflow_tune.report.page.sections.comparison_section import (
    comparison_section,
    hindrances,
    value_at,
)
from meanflow_tune.report.page.sections.curves_section import curves_section
from meanflow_tune.report.page.sections.divergence_section import divergence_section
from meanflow_tune.report.page.sections.front_section import front_section
from meanflow_tune.report.page.sections.functions_section import functions_section
from meanflow_tune.report.page.sections.importance_section import importance_section
from meanflow_tune.report.page.sections.quality_section import by_nfe, quality_section
from meanflow_tune.report.page.sections.rung_section import rung_section
from meanflow_tune.report.page.sections.seeds_section import seeds_section
from meanflow_tune.report.page.sections.trials_section import trials_section
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.search.objectives import Objectives
from tests.support.manifests import manifest
from tests.support.page.html_check import faults_of
from tests.support.page.page_study import (
    OBJECTIVE,
    RUNGS,
    page_report,
    page_trial,
    page_view,
    small_study,
)


def words(section: Section) -> str:
    """Its text as a reader sees it."""
    without = re.sub(r"<(title|desc)[^>]*>.*?</\1>|<wbr>", "", section.body)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", without)).split())


def view(folder: Path, *more: TrialRecord, confirmed: tuple[TrialRecord, ...] = ()) -> StudyView:
    return page_view(folder, [*small_study(folder), *more], confirmed)


def confirmation(folder: Path, seeds: int = 3) -> tuple[TrialRecord, ...]:
    """Trials 0 (the reference, 0.5) and 2 (0.4) on fresh seeds."""
    made = []
    for k, seed in enumerate(confirm.fresh_seeds(0, seeds)):
        for number, gap in ((0, 0.5), (2, 0.4)):
            source = small_study(folder)[number]
            config = source.config | {"seed": seed}
            report = page_report(RUNGS[-1], gap + 0.01 * k)
            made.append(
                replace(
                    source,
                    study="made-up/confirm",
                    number=len(made),
                    params=Entry(number, seed).params,
                    config=config,
                    baseline=Entry(number, seed).name,
                    reports=(report,),
                )
            )
    return tuple(made)


@pytest.mark.parametrize("anchor, title, make", SECTIONS, ids=[name for name, _, _ in SECTIONS])
def test_every_section_stands_an_empty_and_a_starting_study(
    anchor: str, title: str, make: Any, tmp_path: Path
) -> None:
    running = page_trial(tmp_path, 0, 0.5, rungs=0, status="running")
    for records in ([], [running]):
        section = make(page_view(tmp_path, records))
        assert (section.anchor, section.title) == (anchor, title)
        assert words(section)
        assert section.charts == ()


def test_the_answer_names_winner_change_and_settings(tmp_path: Path) -> None:
    section = answer_section(view(tmp_path, confirmed=confirmation(tmp_path)))
    text = words(section)
    assert "Trial 2 (proposed) is ahead of the reference, trial 0" in text
    assert "on 3 fresh seeds" in text
    assert "losses.backward.share" in text
    assert "Measured over 3 fresh seeds" in text
    assert "processor seconds" in text
    assert "--confirm-seeds 6" in text


def test_the_answer_of_a_running_search_says_that_it_is_early(tmp_path: Path) -> None:
    started = page_trial(tmp_path, 0, 0.5, rungs=1, status="running")
    text = words(answer_section(page_view(tmp_path, [started], running=True)))
    assert "No trial has completed yet, of 1 trial started" in text


def test_quality_has_intervals_where_all_were_confirmed(tmp_path: Path) -> None:
    section = quality_section(view(tmp_path, confirmed=confirmation(tmp_path)))
    (gap, _) = section.charts
    assert gap.name == "quality-teacher_gap"
    assert [one.role for one in gap.series] == ["reference", "leader"]
    assert all(span is not None for one in gap.series for span in one.spans)
    assert [y for _, y in gap.series[0].points] == pytest.approx([0.51, 0.255, 0.1275])
    assert "Means over the fresh seeds" in words(section)
    alone = quality_section(view(tmp_path)).charts[0]
    assert all(span is None for one in alone.series for span in one.spans)
    assert [y for _, y in alone.series[0].points] == pytest.approx([0.5, 0.25, 0.125])


def test_metrics_are_told_by_name_and_nfe() -> None:
    metrics = {"gap@4": 1.0, "gap@1": 2.0, "other@1": 3.0, "gap@x": 4.0, "loss/gap": 5.0}
    assert by_nfe(metrics, "gap") == {1: 2.0, 4: 1.0}


def test_the_front_is_of_what_nothing_beats(tmp_path: Path) -> None:
    slow = page_trial(tmp_path, 7, 0.3)
    last = replace(slow.reports[-1], cost={"cpu_seconds": 99.0, "step_ms": 1.0})
    section = front_section(view(tmp_path, replace(slow, reports=(*slow.reports[:-1], last))))
    (chart,) = section.charts
    line = chart.series[0]
    assert line.label == "front"
    assert [x for x, _ in line.points] == [38.4, 99.0]
    assert "trial 2" in words(section)
    assert "trial 0" not in words(section).partition("The front")[2]


def test_several_objectives_have_a_chart_of_their_own(tmp_path: Path) -> None:
    made = view(tmp_path)
    objectives = Objectives.parse("teacher_gap@1,teacher_gap@4,cost")
    plan = replace(made.plan, objectives=objectives)
    section = front_section(replace(made, plan=plan))
    assert [chart.name for chart in section.charts] == ["front", "objectives"]


def test_curves_tell_what_ended_each_trial_and_why(tmp_path: Path) -> None:
    section = curves_section(view(tmp_path))
    (chart,) = section.charts
    labels = {one.label for one in chart.series}
    assert {"completed", "stopped at a rung", "paused at a rung", "diverged"} <= labels
    tips = [tip for one in chart.series for tip in one.tips]
    assert any("place 4 of 4 at this rung" in tip for tip in tips)
    text = words(section)
    assert "3,840 6 4 1 0 0 1" in text
    assert "9,600 4 3 0 1 0 0" in text
    assert faults_of(section.body) == []


def test_importance_needs_trials_and_slices_do_not(tmp_path: Path) -> None:
    few = importance_section(view(tmp_path))
    assert "it needs 16 at least" in words(few)
    assert few.charts
    more = [page_trial(tmp_path, n, 0.3 + 0.02 * (n % 11)) for n in range(7, 40)]
    section = importance_section(view(tmp_path, *more))
    text = words(section)
    assert "PED-ANOVA" in text
    assert "Boundary check" in text
    assert 0 < len(section.charts) <= 9


def test_functions_are_drawn_for_each_family_best_first(tmp_path: Path) -> None:
    more = [page_trial(tmp_path, n, 0.3 + 0.01 * n) for n in range(7, 30)]
    section = functions_section(view(tmp_path, *more))
    kinds = {r.config["time_sampler"]["kind"] for r in view(tmp_path, *more).records if r.reports}
    assert section.body.count("<img ") == len(kinds)
    names = [chart.name for chart in section.charts]
    assert "schedules" in names
    assert "weight-second_order" in names
    schedules = section.charts[names.index("schedules")]
    assert all(len(one.points) == 41 for one in schedules.series)
    ramp = section.charts[names.index("weight-second_order")]
    assert any(one.points[0][1] == 0.0 != one.points[-1][1] for one in ramp.series)


def test_the_divergence_map_finds_the_parameter_that_fails(tmp_path: Path) -> None:
    made = []
    for n in range(7, 40):
        trial = page_trial(tmp_path, n, 0.5)
        high = trial.params["optimizer/learning_rate"] > 3e-3
        made.append(replace(trial, status="diverged", reason="boom <&>") if high else trial)
    text = words(divergence_section(page_view(tmp_path, made)))
    rows = text.partition("values: failed / trials")[2]
    assert rows.strip().startswith("optimizer/learning_rate")
    assert "boom <&>" in text
    calm = words(divergence_section(page_view(tmp_path, [page_trial(tmp_path, 0, 0.5)])))
    assert calm == "None of 1 trial diverged or ran out of memory."


def test_the_rung_audit_tells_correlation_and_too_few(tmp_path: Path) -> None:
    assert "too few trials" in words(rung_section(view(tmp_path)))
    more = [page_trial(tmp_path, n, 0.3 + 0.02 * (n % 11)) for n in range(7, 20)]
    section = rung_section(view(tmp_path, *more))
    assert "+1.00" in words(section)
    assert len(section.charts) == len(RUNGS) - 1
    none = replace(view(tmp_path), manifest=manifest(rungs="none"))
    assert words(rung_section(none)) == "This search stops no trial early."


def test_seeds_show_every_run_of_the_confirmation(tmp_path: Path) -> None:
    section = seeds_section(view(tmp_path, confirmed=confirmation(tmp_path)))
    (chart,) = section.charts
    assert [len(one.points) for one in chart.series] == [3, 3]
    text = words(section)
    assert all(str(seed) in text for seed in confirm.fresh_seeds(0, 3))
    assert "No configuration has been retrained" in words(seeds_section(view(tmp_path)))


def test_the_table_of_trials_has_every_trial_and_reason(tmp_path: Path) -> None:
    section = trials_section(view(tmp_path))
    text = words(section)
    assert "ValueError: no [such] file" in text
    assert "<b>loss</b> & is not finite" in text
    assert section.body.count('scope="row"') == 7


def other_view(folder: Path, **changes: Any) -> StudyView:
    """A second study whose configurations differ from the first one's."""
    made = view(folder)
    records = [replace(r, config=r.config | changes) for r in made.records]
    return page_view(folder, records)


def test_studies_with_other_teachers_are_not_compared(tmp_path: Path) -> None:
    first = view(tmp_path)
    teacher = first.records[0].config["teacher"] | {"seed": 77}
    other = other_view(tmp_path, teacher=teacher)
    (found,) = (one for one in hindrances(first, other) if one.fatal)
    assert "their teachers differ" in found.text
    section = comparison_section([first, other])
    assert "Not comparable: their teachers differ" in words(section)
    assert section.charts == ()


def test_studies_with_other_data_objective_or_evaluation_are_not_compared(tmp_path: Path) -> None:
    first = view(tmp_path)
    evaluation = first.records[0].config["evaluation"] | {"samples": 32}
    plain = replace(first, plan=replace(first.plan, data_fingerprint="other"))
    objectives = Objectives.parse("teacher_gap@1")
    for other, said in (
        (other_view(tmp_path, evaluation=evaluation), "their evaluations differ"),
        (plain, "their data differ"),
        (
            replace(first, plan=replace(first.plan, objectives=objectives)),
            "their objectives differ",
        ),
    ):
        assert next(one.text for one in hindrances(first, other) if one.fatal).startswith(said)


def test_comparable_studies_are_paired_on_common_seeds(tmp_path: Path) -> None:
    runs = confirmation(tmp_path)
    first = view(tmp_path, confirmed=runs)
    worse = tuple(
        replace(
            run, reports=(page_report(RUNGS[-1], run.reports[0].metrics["teacher_gap@1"] + 0.1),)
        )
        for run in runs
    )
    second = view(tmp_path, confirmed=worse)
    section = comparison_section([first, replace(second, notes=("x",))])
    text = words(section)
    assert "Comparable: objective, data, evaluation and teacher are the same." in text
    assert "paired on 3 fresh seeds and the same latents: objective +0.0500" in text
    assert "so made-up is worse." in text
    assert [chart.name for chart in section.charts] == ["studies-images", "studies-cost"]
    unpaired = words(comparison_section([first, view(tmp_path)]))
    assert "not paired, since the leaders share no fresh seed" in unpaired


def test_a_curve_is_read_between_its_rungs() -> None:
    curve = [(10.0, 4.0), (1000.0, 2.0)]
    assert value_at(curve, 100.0) == pytest.approx(3.0)
    assert value_at(curve, 1000.0) == 2.0
    assert value_at(curve, 5.0) is None
    assert value_at(curve, 2000.0) is None


def test_the_made_up_study_is_of_the_objective_of_its_space(tmp_path: Path) -> None:
    assert str(view(tmp_path).objectives) == OBJECTIVE
