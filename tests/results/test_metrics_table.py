"""metrics.parquet: every number once, with its interval, and what it is compared with."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from meanflow_tune.plan import confirm
from meanflow_tune.results.metrics_table import COLUMNS, RunKinds, metrics_table, write_metrics
from meanflow_tune.results.parquet import results_table
from meanflow_tune.search.analysis.significance import interval
from meanflow_tune.search.objectives import Objectives
from tests.support.records import build_record
from tests.support.results.tables import (
    EULER,
    HELD_OUT,
    OBJECTIVES,
    REPEAT_SEED,
    SEED,
    report,
    run,
    searched,
)

KEY = ["study", "kind", "evaluation", "trial", "candidate", "variant", "repeat", "images", "nfe"]
KEY += ["metric"]
OBJECTIVE = f"objective.{OBJECTIVES.parts[0]}"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return metrics_table(*searched(tmp_path_factory.mktemp("study")), OBJECTIVES, SEED)


def test_columns_types_and_key(table: pd.DataFrame) -> None:
    assert {name: str(kind) for name, kind in table.dtypes.items()} == COLUMNS
    assert not table.duplicated(KEY).any()
    assert table["value"].notna().all()
    assert set(table["kind"]) == {
        "trial",
        "tuning",
        "confirmation",
        "confirmed",
        "teacher",
        "teacher_ode",
        "data",
        "noise",
    }


def test_every_number_of_the_other_table_is_a_row(table: pd.DataFrame, tmp_path: Path) -> None:
    records, confirmed = searched(tmp_path)
    kind_of = RunKinds(SEED)
    wide = results_table([*records, *confirmed], ["gap"], OBJECTIVES.values, kind_of)
    wide = wide[wide["rung"] > 0]
    runs = table[table["trial"].notna()]
    numbers = [c for c in wide if "@" in c or c.startswith(("loss/", "cost."))]
    assert len(runs) == len(wide) * (len(numbers) + 1), "and the objective"
    for row in wide.to_dict("records"):
        mine = runs[
            (runs["study"] == row["study"])
            & (runs["kind"] == row["kind"])
            & (runs["trial"] == row["number"])
            & (runs["repeat"] == row["repeat"])
            & (runs["images"] == row["images"])
        ]
        assert set(mine["is_last"]) == {row["is_last"]}
        assert set(mine["status"]) == {row["status"]}
        for name in numbers:
            metric, _, nfe = name.partition("@")
            found = mine[mine["metric"] == metric]
            found = found[found["nfe"] == int(nfe)] if nfe else found[found["nfe"].isna()]
            assert found["value"].tolist() == [row[name]]
        assert mine[mine["metric"] == OBJECTIVE]["value"].tolist() == [row["value"]]


def test_what_has_no_nfe_has_none(table: pd.DataFrame) -> None:
    without = set(table[table["nfe"].isna()]["metric"])
    assert {m for m in without if "." not in m and "/" not in m} == {"far"}
    kinds = set(table[(table["metric"] == "far") & table["nfe"].isna()]["kind"])
    assert kinds == {"teacher_ode", "data", "noise"}
    assert not any("@" in name for name in table["metric"] if not name.startswith("objective."))


def test_seeds_are_those_of_the_run(table: pd.DataFrame) -> None:
    trial = table[(table["kind"] == "trial") & (table["trial"] == 3)]
    assert set(trial[trial["repeat"] == 0]["seed"]) == {2**60}, "exactly"
    assert set(trial[trial["repeat"] == 1]["seed"]) == {REPEAT_SEED}
    fresh = table[table["kind"] == "confirmation"]
    assert set(fresh["seed"]) == set(confirm.fresh_seeds(SEED, 2))
    assert set(table[table["kind"] == "tuning"]["seed"]) == {confirm.tuning_seed(SEED)}


def test_the_seed_of_a_deleted_repeat_is_unknown(tmp_path: Path) -> None:
    records, _ = searched(tmp_path)
    shutil.rmtree(Path(records[3].folder) / "repeats")
    table = metrics_table(records, [], OBJECTIVES, SEED)
    assert table[table["repeat"] == 1]["seed"].isna().all()


def test_runs_of_a_confirmation_name_the_trial_that_they_train(table: pd.DataFrame) -> None:
    fresh = table[table["kind"].isin(["confirmation", "confirmed"])]
    named = fresh.groupby("candidate")["baseline"].unique().map(list).to_dict()
    assert named[0] == ["mid"]
    assert named[1] == ["forward"]
    assert pd.isna(named[3]).all()
    trials = table[table["kind"] == "trial"]
    assert (trials["candidate"] == trials["trial"]).all()


def test_a_switched_factor_has_rows_and_means_of_its_own(tmp_path: Path) -> None:
    records, confirmed = searched(tmp_path)
    entry = confirm.Entry(0, confirm.fresh_seeds(SEED, 1)[0], switched=True)
    other = replace(confirmed[3], number=len(confirmed), baseline=entry.name, params=entry.params)
    table = metrics_table(records, [*confirmed, other], OBJECTIVES, SEED)
    assert not table.duplicated(KEY).any()
    switched = table[table["variant"] == "switched"]
    assert set(switched["kind"]) == {"confirmation", "confirmed"}
    assert set(switched["candidate"]) == {0}
    assert set(switched["runs"]) == {1}
    own = table[(table["kind"] == "confirmed") & (table["candidate"] == 0)]
    assert set(own[own["variant"].isna()]["runs"]) == {2}


def test_means_over_fresh_seeds_are_those_of_the_summary(tmp_path: Path) -> None:
    records, confirmed = searched(tmp_path)
    table = metrics_table(records, confirmed, OBJECTIVES, SEED)
    means = table[table["kind"] == "confirmed"]
    assert means["candidate"].unique().tolist() == [1, 0, 3]
    sides = [
        confirm.Side("mid", records[0]),
        confirm.Side("forward", records[1], untuned=True),
        confirm.Side("trial 3", records[3]),
    ]
    rows = confirm.table(sides, confirmed, OBJECTIVES, SEED)
    assert len(rows) == 3
    for row, side in zip(rows, sides, strict=True):
        mine = means[means["candidate"] == side.candidate.number]
        assert set(mine["runs"]) == {len(row.seeds)}
        for name in ("teacher_gap@1", "teacher_gap@2"):
            metric, _, nfe = name.partition("@")
            (found,) = mine[(mine["metric"] == metric) & (mine["nfe"] == int(nfe))].to_dict(
                "records"
            )
            told = row.means[name]
            assert found["value"] == told.mean
            if told.low is None:
                assert pd.isna([found["lower"], found["upper"]]).all()
            else:
                assert (found["lower"], found["upper"]) == (told.low, told.high)
        (objective,) = mine[mine["metric"] == OBJECTIVE]["value"]
        assert objective == row.means["objective"].mean
    others = table[table["kind"] != "confirmed"]
    assert others[["lower", "upper"]].isna().all().all()
    assert (others["runs"] == 1).all()


def test_a_mean_with_a_number_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    records, confirmed = searched(tmp_path)
    confirmed[3].reports[0].metrics["loss/loss"] = float("nan")  # of candidate 0
    means = metrics_table(records, confirmed, OBJECTIVES, SEED).query("kind == 'confirmed'")
    assert means[means["metric"] == "loss/loss"]["candidate"].tolist() == [1, 3]
    costs = [run.reports[0].cost["steps"] for run in (confirmed[3], confirmed[6])]
    steps = means[(means["metric"] == "cost.steps") & (means["candidate"] == 0)]
    assert steps["value"].item() == interval(costs).mean


def test_teacher_data_and_noise_stand_once_per_evaluation(table: pd.DataFrame) -> None:
    for study, latents in (("toy", {1}), ("toy/confirm", {2, 3})):
        mine = table[(table["study"] == study) & table["candidate"].isna()]
        assert set(mine["latent_seed"]) == latents
        for _, one in mine.groupby("evaluation"):
            euler = one[one["kind"] == "teacher"]
            found = {f"{r.metric}@{r.nfe}": r.value for r in euler.itertuples()}
            assert found == EULER
            for kind, of in (("teacher_ode", "teacher"), ("data", "data"), ("noise", "noise")):
                rows = one[one["kind"] == kind]
                assert dict(zip(rows["metric"], rows["value"], strict=True)) == HELD_OUT[of]
            assert one["images"].isna().all()
            assert one["seed"].isna().all()
    shared = table[table["kind"].isin(["confirmation", "confirmed"])]["evaluation"].unique()
    teacher = table[table["evaluation"].isin(shared) & (table["kind"] == "teacher")]
    assert set(teacher["latent_seed"]) == {2}


def test_another_teacher_is_another_evaluation(tmp_path: Path) -> None:
    first, second = (run(tmp_path, number, 0.5) for number in (0, 1))
    second.config["teacher"] = {"seed": 9}
    table = metrics_table([first, second], [], OBJECTIVES, SEED)
    assert table["evaluation"].nunique() == 2
    assert (table["kind"] == "teacher").sum() == 2 * len(EULER)


def test_without_samples_evaluation_or_trials_there_is_still_a_table(tmp_path: Path) -> None:
    empty = metrics_table([], [], OBJECTIVES, SEED)
    assert {name: str(kind) for name, kind in empty.dtypes.items()} == COLUMNS
    bare = build_record(0, "completed", report(10, 0.5))
    table = metrics_table([bare], [], OBJECTIVES, SEED)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == COLUMNS
    assert set(table["kind"]) == {"trial"}
    assert table["evaluation"].isna().all()


def test_an_objective_that_a_report_lacks_is_left_out() -> None:
    other = Objectives.parse("elsewhere@1")
    table = metrics_table([build_record(0, "failed", report(10, 0.5))], [], other, SEED)
    assert len(table) == 9
    assert not table["metric"].str.startswith("objective").any()


def test_the_objective_is_what_the_study_holds() -> None:
    stored = build_record(0, "completed", report(10, 0.5), rung_values=((0.125,),))
    table = metrics_table([stored], [], OBJECTIVES, SEED)
    assert table[table["metric"] == OBJECTIVE]["value"].tolist() == [0.125]


def test_the_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "out" / "metrics.parquet"
    write_metrics(path, [], [], OBJECTIVES, SEED)
    records, confirmed = searched(tmp_path)
    write_metrics(path, records, confirmed, OBJECTIVES, SEED)
    assert [file.name for file in path.parent.iterdir()] == ["metrics.parquet"]
    expected = metrics_table(records, confirmed, OBJECTIVES, SEED)
    pd.testing.assert_frame_equal(pd.read_parquet(path), expected)
