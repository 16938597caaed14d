"""A finished study as a table, and the surrogate that is fitted to it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.replay.surrogate import Surrogate
from benchmarks.replay.table import (
    Curve,
    Table,
    distance,
    load_table,
    make_table,
    unit,
    without_baselines,
)
from meanflow_tune.search.store.storage import JOURNAL_NAME
from tests.support.replay_cases import OBJECTIVE, RUNGS, flat, gap, trials, write_study


@pytest.fixture(scope="module")
def table() -> Table:
    return make_table("s", *trials(30), OBJECTIVE)


def test_rows_hold_values_and_costs_at_every_rung() -> None:
    records, distributions = trials(30, diverged=4)
    table = make_table("s", records, distributions, OBJECTIVE)
    assert (len(table.rows), table.rungs, len(table.finals)) == (30, RUNGS, 26)
    row = table.rows[5]
    assert row.params == records[5].params
    assert row.curve.values == pytest.approx(
        [gap(row.params) * f for f in (1.4, 1.2, 1.1)], rel=1e-12
    )
    assert row.curve.costs == (1.0, 2.0, 4.0)
    # A diverged row reached one rung, and is paid for up to the next.
    assert table.rows[28].curve == Curve((gap(records[28].params) * 1.4,), (1.0, 2.0))
    assert table.rows[28].curve.diverges
    assert set(table.baselines) == {"base0", "base1"}
    assert without_baselines(table).baselines == {}
    assert make_table("s", records, distributions, OBJECTIVE, "images").rows[5].curve.costs == RUNGS


def test_what_has_no_final_value_is_left_out_and_named() -> None:
    records, distributions = trials(30)
    records[7] = replace(records[7], status="pruned", reports=records[7].reports[:1])
    records[8] = replace(records[8], status="failed", reports=())
    records[9] = replace(records[9], reports=records[9].reports[:2])
    table = make_table("s", records, distributions, OBJECTIVE)
    assert table.left_out == {"pruned": 1, "failed": 1, "with other rungs": 1}
    assert "left out because they have no final value: 1 pruned, 1 failed" in table.describe()
    with pytest.raises(ValueError, match=r"has 17 completed trials, and a replay needs 20"):
        make_table("s", records[:20], distributions, OBJECTIVE)
    records[3] = replace(records[3], reports=tuple(replace(r, cost={}) for r in records[3].reports))
    with pytest.raises(ValueError, match="trial 3 reports no gpu_seconds or cpu_seconds"):
        make_table("s", records, distributions, OBJECTIVE)


def test_a_study_is_read_from_its_folder(tmp_path: Path) -> None:
    """Written by the ledger, read without a fence, and not changed by it."""
    with pytest.raises(ValueError, match=r"there is no manifest.json; name a study's folder"):
        load_table(tmp_path)
    ledger = write_study(tmp_path)
    before = (tmp_path / JOURNAL_NAME).read_bytes()
    table, manifest = load_table(tmp_path)
    assert manifest.study == "s"
    assert [row.params for row in table.rows] == [record.params for record in ledger.records()]
    assert [row.curve.values[-1] for row in table.rows] == [r.value for r in ledger.records()]
    assert (tmp_path / JOURNAL_NAME).read_bytes() == before


def test_distance_of_conditional_configurations(table: Table) -> None:
    a = {"x": -1.0, "kind": "bent", "rate": 1e-3, "steps": 1}
    distributions = table.distributions
    assert distance(a, a, distributions) == 0.0
    assert distance(a, a | {"x": 0.0}, distributions) == pytest.approx(0.5)
    assert distance(a, a | {"rate": 10**-1.5}, distributions) == pytest.approx(
        0.5
    )  # on a log scale
    assert distance(a, a | {"steps": 4}, distributions) == pytest.approx(1.0)
    plain = {"x": -1.0, "kind": "plain", "steps": 1}
    assert (
        distance(a, plain, distributions)
        == distance(plain, a, distributions)
        == pytest.approx(1.0 + 1.0 / 3.0)
    )
    # 1/3 is what two uniform places differ by on average.
    draws = np.random.default_rng(0).random((2, 200_000))
    assert abs(draws[0] - draws[1]).mean() == pytest.approx(1 / 3, abs=2e-3)
    assert unit(1, distributions["steps"]) == 0.0


def test_the_surrogate_ranks_and_repeats_itself() -> None:
    records, distributions = trials(80)
    table = make_table("s", records, distributions, OBJECTIVE)
    surrogate = Surrogate(table, trees=40)
    # The table is smooth in two parameters, so held-out rows are ranked well at every rung.
    assert [error.images for error in surrogate.rank_errors] == list(RUNGS)
    for error in surrogate.rank_errors:
        assert error.spearman > 0.8
        assert 0.0 < error.mean_rank_error < 0.15
    config = {"params": {"x": 0.1, "kind": "plain", "steps": 2}}
    curve = surrogate.curve(config)
    assert curve == surrogate.curve(config) == Surrogate(table, trees=40).curve(config)
    assert curve.costs == pytest.approx((1.0, 2.0, 4.0))
    # Residuals of one row at all its rungs: the ratio of rungs is that of the table, 1.2/1.4.
    assert curve.values[1] / curve.values[0] == pytest.approx(1.2 / 1.4, rel=0.02)
    # One configuration goes down all trees at once; the forest itself gives the same.
    x = surrogate._features(config["params"])
    assert surrogate._trees(x) == pytest.approx(surrogate._forest.predict(x[None])[0])
    near = surrogate.curve({"params": {"x": 0.3, "kind": "bent", "rate": 1e-3, "steps": 2}})
    far = surrogate.curve({"params": {"x": -1.0, "kind": "bent", "rate": 1.0, "steps": 2}})
    assert near.values[-1] < far.values[-1]


def test_a_surrogate_of_noise_says_that_it_knows_nothing() -> None:
    noise = np.random.default_rng(0).uniform(1.0, 2.0, 60).tolist()
    (error,) = Surrogate(flat(noise), trees=40).rank_errors
    assert abs(error.spearman) < 0.4
    assert error.mean_rank_error > 0.22


def test_a_surrogate_diverges_as_often_as_the_table() -> None:
    table = make_table("s", *trials(60, diverged=30), OBJECTIVE)
    surrogate = Surrogate(table, trees=40)
    curves = [surrogate.curve({"params": row.params}) for row in table.rows]
    assert 0.25 < np.mean([curve.diverges for curve in curves]) < 0.75
    assert all(len(curve.costs) == 2 for curve in curves if curve.diverges)


def test_the_surrogate_needs_positive_values() -> None:
    with pytest.raises(ValueError, match="not positive; replay with --table rows"):
        Surrogate(flat([float(i) for i in range(24)]))
