"""Two configurations against each other: the settings that differ, paired differences, and costs."""

from dataclasses import replace
from pathlib import Path

import pytest

from meanflow_tune.plan import confirm
from meanflow_tune.plan.confirm import Entry
from meanflow_tune.plan.contrast import settings_that_differ
from meanflow_tune.plan.findings import Findings, find
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.search.space.draws import draw_fixed
from meanflow_tune.search.space.load import load_space
from tests.support.confirmation import FACTOR, GAP, SEARCH, SEARCH_SEED, SPACE, record, run

SEEDS = confirm.fresh_seeds(SEARCH_SEED, 6)


def found(
    confirmed: list[TrialRecord], records: list[TrialRecord] = SEARCH, **changes: object
) -> Findings:
    request = SearchRequest(
        study="toy", trials=8, storage=Path("none"), seed=SEARCH_SEED, confirm_seeds=6, **changes
    )
    space = replace(SPACE, question=FACTOR)
    return find(Plan(request, space, GAP, lambda trial: {}, (), "", None), records, confirmed)


def ran(entry: Entry, gap: float, number: int, seconds: float = 2.0) -> TrialRecord:
    report = Report(
        100,
        {"gap@1": gap, "frechet@1": 2 * gap, "loss/backward": 9.0},
        {"cpu_seconds": seconds, "step_ms": 4.0},
        0.0,
    )
    return replace(run(entry, gap, number), reports=(report,))


def test_settings_that_differ_leave_out_seeds_and_the_defaults_of_absent_parts() -> None:
    space = load_space("second_order")
    base, other = (
        draw_fixed(space.suggest, space.baselines[name]).config.to_dict()
        for name in ("meanflow_cifar10_lr_mid", "meanflow_cifar10_second_order")
    )
    other["seed"] = 99
    assert {d.setting: (d.base, d.other) for d in settings_that_differ(base, other)} == {
        "losses.backward.share": (1.0, 0.9),
        "losses.second_order.share": (None, 0.1),
        "losses.second_order.ramp.length": (None, 0.3),
    }
    times = draw_fixed(space.suggest, space.baselines["meanflow_cifar10_v1"]).config.to_dict()
    kinds = {d.setting: (d.base, d.other) for d in settings_that_differ(base, times)}
    assert kinds["time_sampler.kind"] == ("logit_normal", "separate")
    assert settings_that_differ(base, base) == []


def test_the_winner_is_compared_on_the_seeds_that_both_completed() -> None:
    runs = [ran(Entry(1, seed), 1.0, n, seconds=2.0) for n, seed in enumerate(SEEDS)]
    runs += [ran(Entry(5, seed), 0.9, 10 + n, seconds=3.0) for n, seed in enumerate(SEEDS[:5])]
    winner = found(runs).winner
    assert winner is not None
    assert (winner.base, winner.other, winner.trials) == ("trial 1 (mid)", "trial 5", (1, 5))
    assert (winner.seeds, winner.images) == (5, (100, 100))
    by_name = {one.name: one for one in winner.measured}
    assert list(by_name) == ["gap@1", "frechet@1", "cpu_seconds", "step_ms"]
    assert by_name["gap@1"].relative == pytest.approx(-0.1)
    assert by_name["gap@1"].change.count == 5
    assert by_name["gap@1"].improves is True
    assert by_name["cpu_seconds"].relative == pytest.approx(0.5)
    assert by_name["cpu_seconds"].improves is None, "a cost is no merit"
    assert [one.name for one in winner.of("quality")] == ["frechet@1"], "losses are no quality"


def test_without_fresh_seeds_it_is_the_search_itself() -> None:
    winner = found([]).winner
    assert winner is not None
    assert winner.seeds == 0
    assert winner.of("objective")[0].change.mean == pytest.approx(0.2 - 0.4)
    assert found([], SEARCH[:2]).winner is None, "nothing but the reference"
    lone = found([], [SEARCH[1], record(5, 0.9)]).winner
    assert lone is not None
    assert lone.trials == (1, 5), "where the reference leads, the best proposed trial"


def test_a_pair_is_with_the_factor_against_without_it() -> None:
    runs = []
    for n, seed in enumerate(SEEDS[:2]):
        runs += [
            ran(Entry(1, seed), 0.8, 10 * n),
            ran(Entry(1, seed, switched=True), 1.0, 10 * n + 1),
            ran(Entry(5, seed, switched=True), 0.5, 10 * n + 2),
        ]
    (pair,) = found(runs).pairs
    assert (pair.subject, pair.base) == ("trial 1 (mid)", "trial 1 (mid) without an odd mark")
    assert (pair.other, pair.seeds) == ("trial 1 (mid)", 2)
    assert pair.of("objective")[0].relative == pytest.approx(-0.2)
    assert found(runs, question=False).pairs == ()
