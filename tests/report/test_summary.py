"""What the summary says: who leads, what cannot be told, the front of several objectives, the audit."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from meanflow_tune.plan import confirm
from meanflow_tune.plan.confirm import Entry
from meanflow_tune.plan.findings import Findings, find
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.remote.location import local_folder
from meanflow_tune.report import summary
from meanflow_tune.report.result_files import write_files
from meanflow_tune.search.objectives import Objectives
from tests.support.confirmation import GAP, SEARCH, SEARCH_SEED, SPACE, record, run
from tests.support.rungs import make_rungs

SEVERAL = Objectives.parse("gap@1,cost")


def plan(folder: Path, objectives: Objectives = GAP, **changes: object) -> Plan:
    request = SearchRequest(
        **{"study": "toy", "trials": 8, "storage": folder, "seed": SEARCH_SEED} | changes
    )
    (folder / "toy").mkdir(exist_ok=True)
    return Plan(request, SPACE, objectives, lambda trial: {}, (), "", make_rungs())


def printed(made: Plan, found: Findings) -> str:
    text = io.StringIO()
    summary.show(Console(file=text, width=140), made, found)
    return " ".join(text.getvalue().split())


def repeated(number: int, own: float, *others: float, baseline: str | None = None) -> TrialRecord:
    reports = tuple(
        Report(100, {"gap@1": value}, {}, 0.0, repeat=k) for k, value in enumerate(others, 1)
    )
    return replace(record(number, own, baseline), repeats=reports)


def test_without_repeats_it_says_that_order_is_partly_luck(tmp_path: Path) -> None:
    made = plan(tmp_path)
    found = find(made, SEARCH, [])
    assert (found.leader, found.best_proposed, found.reference) == (SEARCH[5], SEARCH[5], SEARCH[1])
    text = printed(made, found)
    assert "best proposed: trial 5" in text
    assert (
        "leader: trial 5 (proposed); best.json holds its configuration. Each trial ran on" in text
    )
    assert "nothing is called better" in text


def test_with_repeats_the_leader_and_what_cannot_be_told_from_it(tmp_path: Path) -> None:
    made = plan(tmp_path)
    records = [
        record(0, 0.5, "low"),
        repeated(1, 0.30, 0.52, 0.50),
        repeated(2, 0.31, 0.40, 0.35),
        repeated(3, 0.32, 0.38, 0.40),
        repeated(4, 0.45, 0.60, 0.55),
    ]
    found = find(made, records, [])
    assert found.leader is records[2]
    text = printed(made, found)
    assert (
        "leader: trial 2 (proposed), by paired differences on 3 seeds; best.json holds its" in text
    )
    assert (
        "trials 2 and 3 cannot be told apart: difference -0.0133 [-0.0500, +0.0200] on 3 seeds"
        in text
    )
    ahead = "[-0.1500, +0.0100] on 3 seeds (trial 1 was ahead on the first one)"
    assert f"trials 2 and 1 cannot be told apart: difference -0.0867 {ahead}" in text
    assert "trials 2 and 4" not in text
    assert found.best_proposed is not None
    assert found.best_proposed.value == 0.31, "what was told stays the value of its own run"


@pytest.mark.parametrize(
    ("shifts", "said"),
    [
        (
            (-0.1, -0.2),
            "Trial 5 (proposed) is ahead of the reference, trial 1 (mid): gap@1 -15.0 [-20.0",
        ),
        (
            (0.1, 0.2),
            "Nothing is ahead of the reference, trial 1 (mid); the best other one is Trial 5",
        ),
        (
            (-0.5, 0.1),
            "Trial 5 (proposed) cannot be told apart from the reference, trial 1 (mid): gap@1",
        ),
    ],
)
def test_only_an_interval_without_zero_leads(
    tmp_path: Path, shifts: tuple[float, float], said: str
) -> None:
    made = plan(tmp_path)
    confirmed = []
    for seed, shift in zip(confirm.fresh_seeds(SEARCH_SEED, 2), shifts, strict=True):
        confirmed.append(run(Entry(1, seed), 1.0, len(confirmed)))
        confirmed.append(run(Entry(5, seed), 1.0 + shift, len(confirmed)))
    text = printed(made, find(made, SEARCH, confirmed))
    assert said in text
    assert "chance alone makes a number lean to better once in 4 times" in text
    assert "on 2 fresh seeds" in text


def test_six_seeds_give_the_interval_its_level_and_one_gives_none(tmp_path: Path) -> None:
    made = plan(tmp_path)
    for count, said in ((6, "over 6 fresh seeds, at 95%"), (1, "One fresh seed gives no interval")):
        confirmed = []
        for seed in confirm.fresh_seeds(SEARCH_SEED, count):
            confirmed.append(run(Entry(1, seed), 1.0, len(confirmed)))
            confirmed.append(run(Entry(5, seed), 0.9, len(confirmed)))
        text = printed(made, find(made, SEARCH, confirmed))
        assert said in text
        assert ("Trial 5 (proposed) beats the reference" in text) is (count == 6)
        assert "chance alone" not in text
        assert "leans" not in text


def test_more_than_two_sides_have_the_table_of_all(tmp_path: Path) -> None:
    made = plan(tmp_path, confirm=2)
    confirmed: list[TrialRecord] = []
    for seed in confirm.fresh_seeds(SEARCH_SEED, 2):
        for trial in (1, 5, 7):
            confirmed.append(run(Entry(trial, seed), 1.0 - 0.1 * trial, len(confirmed)))
    text = printed(made, find(made, SEARCH, confirmed))
    assert "retrained on 2 fresh seeds, fresh latents" in text
    assert "trial 7 - reference" in text


def costly(number: int, gap: float, seconds: float, baseline: str | None = None) -> TrialRecord:
    made = record(number, gap, baseline)
    report = replace(made.reports[0], cost={"cpu_seconds": seconds})
    return replace(made, reports=(report,), value=None, values=(gap, seconds))


def test_several_objectives_have_a_front_a_hypervolume_and_a_stated_best(tmp_path: Path) -> None:
    made = plan(tmp_path, SEVERAL)
    records = [
        costly(0, 4.0, 10.0, "low"),
        costly(1, 8.0, 6.0, "mid"),
        costly(2, 1.0, 9.0),
        costly(3, 2.0, 4.0),
        costly(4, 7.0, 3.0),
        costly(5, 7.5, 9.5),
    ]
    found = find(made, records, [])
    assert (found.leader, found.reference) == (records[3], records[0])
    text = printed(made, found)
    # From the corner (8, 10): 7*1 + 6*5 + 1*1.
    assert (
        "3 non-dominated trials; hypervolume 38, measured from the baselines' worst values" in text
    )
    assert "(gap@1 8.0000, cost 10.0000)" in text
    assert "leader: trial 3 (proposed), the trial of the front nearest to its ideal point" in text
    files = write_files(made, found)
    assert json.loads(files[2].read_text()) == records[3].config
    frame = pd.read_parquet(files[0])
    assert frame["objective.gap@1"].tolist() == [r.values[0] for r in records]
    assert frame["objective.cost"].tolist() == [r.values[1] for r in records]
    assert frame["value"].isna().all()


def test_the_audit_of_the_rungs_is_part_of_the_summary(tmp_path: Path) -> None:
    """The first rung orders the trials the other way round."""

    def with_rungs(made: TrialRecord) -> TrialRecord:
        value = made.reports[-1].metrics["gap@1"]
        early = Report(50, {"gap@1": 1.0 - value}, {}, 0.0)
        return replace(made, reports=(early, *made.reports))

    records = [with_rungs(record(n, 0.01 * n, "mid" if n == 0 else None)) for n in range(12)]
    made = plan(tmp_path)
    text = printed(made, find(made, records, []))
    assert "rungs: 50 images: rank correlation with the final value -1.00 [-1.00, -1.00]" in text
    assert "rungs: warning: the rung at 50 images hardly tells how trials end" in text
    nothing_stops = replace(made, rungs=None)
    assert "rungs:" not in printed(nothing_stops, find(nothing_stops, records, []))


def test_without_proposals_it_says_why(tmp_path: Path) -> None:
    made = plan(tmp_path)
    baselines = [trial for trial in SEARCH if trial.baseline is not None]
    proposed = next(trial for trial in SEARCH if trial.baseline is None)
    ended = replace(proposed, status="diverged", values=(), reason="loss not finite")
    assert "Only baselines were run" in printed(made, find(made, baselines, []))
    text = printed(made, find(made, [*baselines, ended], []))
    assert "No trial besides the baselines completed" in text
    text = printed(made, find(made, [ended], []))
    assert "loss not finite" in text
    assert "No trial completed; the reasons are above." in text
    assert "besides the baselines" not in text


@pytest.mark.parametrize("written", [True, False])
def test_a_leader_is_trained_alone_only_where_there_is_one(tmp_path: Path, written: bool) -> None:
    request, text = plan(tmp_path).request, io.StringIO()
    files = [request.folder / "best.json"] if written else []
    summary.show_places(
        Console(file=text, width=140), request, files, "python /repo/scripts/tune.py"
    )
    assert ("/repo/scripts/train.py --config" in text.getvalue()) == written


def test_a_storage_at_a_url_is_named_beside_its_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEANFLOW_TUNE_CACHE", str(tmp_path / "cache"))
    request, text = plan(tmp_path).request, io.StringIO()
    remote = request.model_copy(update={"storage": local_folder("s3://key:secret@bucket/runs")})
    for asked in (request, remote):
        summary.show_places(Console(file=text, width=140), asked, [], "python tune.py")
    found = [line.strip() for line in text.getvalue().splitlines() if "all of it" in line]
    assert len(found) == 1
    assert f"in the folder {request.study} of s3://" in found[0]
    assert "secret" not in found[0]
