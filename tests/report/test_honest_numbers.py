"""Numbers that could mislead: a best below the baseline, a teacher of unknown quality, absurd values."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from meanflow_tune.plan.findings import Findings, find
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.quality import Quality
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.report import result_files, summary
from meanflow_tune.report.outlook import best_so_far
from meanflow_tune.report.result_files import compared, write_files
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.space.load import Space
from tests.support.confirmation import SPACE, record
from tests.support.records import with_samples
from tests.support.rungs import make_rungs

GAP = Objectives.parse("teacher_gap@1")
FACTORS = {"sliced_wasserstein": 1.0, "frechet_pixels": 10.0}
HELD_OUT = {
    "teacher": {"sliced_wasserstein": 0.1, "frechet_pixels": 2.0},
    "data": {"sliced_wasserstein": 0.05, "frechet_pixels": 0.75},
    "noise": {"sliced_wasserstein": 0.8, "frechet_pixels": 63.0},
}
EULER = {"teacher_gap@1": 0.5, "teacher_gap@2": 0.3}


def trial(number: int, value: float, baseline: str | None = None) -> TrialRecord:
    made = record(number, value, baseline)
    gaps = {"teacher_gap@1": value, "teacher_gap@2": 0.7 * value}
    far = {f"{name}@{n}": f * value / n for name, f in FACTORS.items() for n in (1, 2)}
    return replace(made, reports=(Report(100, gaps | far, {}, 0.0),))


def measured(
    folder: Path,
    *records: TrialRecord,
    euler: dict[str, float] = EULER,
    held_out: dict[str, dict[str, float]] | None = HELD_OUT,
) -> list[TrialRecord]:
    return [
        with_samples(r, folder / f"{r.number}.npz", euler, held_out, nfe=(1, 2)) for r in records
    ]


def plan(folder: Path, objectives: Objectives = GAP, space: Space = SPACE) -> Plan:
    request = SearchRequest(study="toy", trials=8, storage=folder)
    (folder / "toy").mkdir(exist_ok=True)
    return Plan(request, space, objectives, lambda trial: {}, (), "", make_rungs())


def printed(made: Plan, found: Findings, width: int = 120) -> str:
    text = io.StringIO()
    summary.show(Console(file=text, width=width), made, found)
    return text.getvalue()


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_best_proposed_below_the_reference_is_called_that(tmp_path: Path) -> None:
    records = [trial(0, 0.3319, "mid"), trial(1, 0.36, "forward"), trial(2, 0.3813), trial(3, 0.4)]
    made = plan(tmp_path)
    found = find(made, records, [])
    assert (found.leader, found.best_proposed, found.reference) == (
        records[0],
        records[2],
        records[0],
    )
    text = flat(printed(made, found))
    assert " best: trial" not in text
    assert "best proposed: trial 2 0.3813" in text
    assert "leader: trial 0 (baseline mid); best.json holds its configuration." in text
    assert (
        "No proposed trial is better than the reference: trial 2 has 0.3813, trial 0 (baseline mid) "
        "0.3319." in text
    )
    assert (
        best_so_far(records, "minimize")
        == "best so far: trial 0 (baseline mid) with 0.3319; best proposed: trial 2 with 0.3813"
    )
    facts = found.facts(GAP)
    assert (facts["best_trial"], facts["best_trial_is"]) == (0, "baseline mid")
    assert (facts["best_proposed_trial"], facts["best_proposed_value"]) == (2, 0.3813)
    assert (facts["reference_trial"], facts["reference_value"]) == (0, 0.3319)
    files = write_files(made, found)
    assert json.loads(files[2].read_text())["mark"] == 0, "best.json is the leader's"


def test_a_leader_of_another_family_is_neither_reference_nor_proposed(tmp_path: Path) -> None:
    records = [trial(0, 0.33, "mid"), trial(1, 0.2, "forward"), trial(2, 0.25)]
    made = plan(tmp_path)
    found = find(made, records, [])
    text = flat(printed(made, found))
    assert "leader: trial 1 (baseline forward)" in text
    assert "best proposed: trial 2" in text
    assert "No proposed trial is better" not in text, "it is better than the reference"
    assert list(compared(found)) == ["reference\nmid", "leader\nforward", "best proposed\ntrial 2"]
    assert best_so_far(records[:2], "minimize").endswith("; no proposed trial completed yet")
    assert best_so_far([trial(4, 0.1)], "minimize") == "best so far: trial 4 (proposed) with 0.1000"


def test_without_a_proposed_trial_the_baselines_are_still_ranked(tmp_path: Path) -> None:
    records = [trial(0, 0.33, "mid"), trial(1, 0.2, "forward")]
    made = plan(tmp_path)
    text = flat(printed(made, find(made, records, [])))
    assert "leader: trial 1 (baseline forward)" in text
    assert "Only baselines were run" in text
    assert "nothing is called better" in text


def test_with_repeats_the_sentence_gives_means_over_common_seeds(tmp_path: Path) -> None:
    def repeated(made: TrialRecord, other: float) -> TrialRecord:
        again = Report(100, {"teacher_gap@1": other}, {}, 0.0, repeat=1)
        return replace(made, repeats=(again,))

    records = [repeated(trial(0, 0.33, "mid"), 0.31), repeated(trial(1, 0.32), 0.40)]
    made = plan(tmp_path)
    text = flat(printed(made, find(made, records, [])))
    assert "trial 1 has 0.3600, trial 0 (baseline mid) 0.3200 (means over 2 seeds)." in text


def test_several_objectives_without_a_proposed_trial_on_the_front(tmp_path: Path) -> None:
    several = Objectives.parse("teacher_gap@1,teacher_gap@2")
    records = [
        replace(r, value=None, values=several.values(r.reports[-1]))
        for r in (trial(0, 0.2, "mid"), trial(1, 0.3))
    ]
    made = plan(tmp_path, several)
    assert "No proposed trial is on the front." in flat(printed(made, find(made, records, [])))


def test_the_teachers_own_quality_is_beside_that_of_its_students(tmp_path: Path) -> None:
    records = measured(tmp_path, trial(0, 0.3, "mid"), trial(1, 0.2))
    made = plan(tmp_path)
    found = find(made, records, [])
    lines = [flat(line) for line in printed(made, found, 80).splitlines()]
    assert "training data, for scale 0.05000 0.7500" in lines
    assert "teacher (end of ODE) 0.1000 2.000" in lines
    assert "noise 0.8000 63.00" in lines
    place = lines.index("reference, NFE 1 0.3000 3.000")
    assert lines[place + 1 : place + 4] == [
        "reference, NFE 2 0.1500 1.500",
        "best proposed, NFE 1 0.2000 2.000",
        "best proposed, NFE 2 0.1000 1.000",
    ]
    assert found.figures()["held_out/teacher/sliced_wasserstein"] == 0.1
    assert len(found.figures()) == 6
    assert "warning" not in printed(made, found)


def test_teachers_that_differ_are_both_shown(tmp_path: Path) -> None:
    """Under an objective of held-out data they may."""
    made = plan(tmp_path, Objectives.parse("sliced_wasserstein@1"))
    better = HELD_OUT | {"teacher": {"sliced_wasserstein": 0.07, "frechet_pixels": 1.0}}
    (first,) = measured(tmp_path, trial(0, 0.3, "mid"))
    (second,) = measured(tmp_path, trial(1, 0.2), held_out=better)
    lines = [flat(line) for line in printed(made, find(made, [first, second], [])).splitlines()]
    assert "teacher (end of ODE) 0.1000 2.000" in lines
    assert "best proposed's teacher 0.07000 1.000" in lines


def test_an_untrained_teacher_is_not_silent(tmp_path: Path) -> None:
    """By teacher_gap its students are perfect."""
    bad = HELD_OUT | {"teacher": HELD_OUT["noise"]}
    made = plan(tmp_path)
    records = measured(tmp_path, trial(0, 0.033, "mid"), trial(1, 0.03), held_out=bad)
    text = flat(printed(made, find(made, records, [])))
    assert (
        "warning: the end of the teacher's ODE is hardly closer to the data than noise is" in text
    )


@pytest.mark.parametrize(
    ("held_out", "why"),
    [
        (None, "these trials were evaluated by an earlier revision"),
        ({"teacher": {}, "data": {}, "noise": {}}, "no metric of evaluation.metrics compares"),
    ],
)
def test_an_unknown_quality_is_said(
    tmp_path: Path, held_out: dict[str, dict[str, float]] | None, why: str
) -> None:
    made = plan(tmp_path)
    records = measured(tmp_path, trial(0, 0.3, "mid"), trial(1, 0.2), held_out=held_out)
    text = flat(printed(made, find(made, records, [])))
    assert f"The teacher's own quality is unknown ({why}" in text
    assert "teacher (Euler) 0.5000" in text, "what an old file has is still shown"


def test_absurd_values_are_not_silent(tmp_path: Path) -> None:
    values = ((0, 0.3, "mid"), (1, 8.6e7, "forward"), (2, 0.2, None), (3, 0.51, None))
    made = plan(tmp_path)
    found = find(made, measured(tmp_path, *(trial(*v) for v in values)), [])
    text = flat(printed(made, found))
    assert (
        "2 completed trials are worse than the teacher's own Euler steps, so their training failed: "
        "trials 1, 3." in text
    )
    assert "the leader, trial" not in text
    assert "trial 1 (forward) 8.6e+07" in text
    facts = found.facts(GAP)
    assert facts["implausible_trials"] == "1, 3"
    assert facts["best_trial_implausible"] == "no"
    assert find(made, [trial(0, 0.3, "mid")], []).facts(GAP)["implausible_trials"] == "none"


def test_a_leader_that_failed_is_a_warning(tmp_path: Path) -> None:
    made = plan(tmp_path)
    found = find(made, measured(tmp_path, trial(0, 0.9, "mid"), trial(1, 0.8)), [])
    text = flat(printed(made, found))
    assert "warning: the leader, trial 1, is one of them, so best.json holds" in text
    facts = found.facts(GAP)
    assert (
        facts["best_trial_implausible"]
        == "worse than the teacher's own Euler steps by teacher_gap@1"
    )


def test_figures_that_are_hardly_worse_than_real_data_are_no_limit() -> None:
    """The moments of a toy may be those of noise, and many Euler steps may be as good as data."""
    held_out = {"data": {"far": 1.0, "near": 1.0}, "noise": {"far": 9.0, "near": 1.1}}
    euler = {"teacher_gap@1": 0.5, "far@1": 3.0, "far@4": 1.2, "near@1": math.inf}
    found = Quality(euler, held_out, (1, 4))
    assert found.limits == {
        "the teacher's own Euler steps": {"teacher_gap@1": 0.5, "far@1": 3.0},
        "noise": {"far@1": 9.0, "far@4": 9.0},
    }
    assert not replace(
        found, held_out=held_out | {"teacher": {"near": 1.1, "far": 2.0}}
    ).teacher_is_noise
    assert replace(
        found, held_out=held_out | {"teacher": {"near": 1.0, "far": 8.5}}
    ).teacher_is_noise


def test_the_picture_names_its_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its samples are the students' own; a trial that is two things stands once."""
    drawn: list[tuple[dict[str, object], dict[str, object]]] = []
    monkeypatch.setattr(
        result_files,
        "comparison_grid",
        lambda rows, path, labels, title: drawn.append((rows, labels)),
    )
    made = plan(tmp_path)
    records = measured(tmp_path, trial(0, 0.3, "mid"), trial(1, 0.2, "forward"), trial(2, 0.4))
    write_files(made, find(made, records, []))
    ((rows, labels),) = drawn
    names = ["teacher (Euler)", "reference\nmid", "leader\nforward", "best proposed\ntrial 2"]
    assert list(rows) == names
    assert labels["leader\nforward"] == {1: "gap 0.2000", 2: "gap 0.1400"}
    assert rows["best proposed\ntrial 2"][1][0, 0] == pytest.approx(0.2)  # type: ignore[index]
    write_files(made, find(made, [records[0], records[2]], []))
    assert list(drawn[1][0])[1:] == ["reference, leader\nmid", "best proposed\ntrial 2"]
    write_files(made, find(made, records[:1], []))
    assert len(drawn) == 2, "nothing to compare"
