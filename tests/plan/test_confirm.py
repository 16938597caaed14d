"""Which runs confirm a search: who, on which seeds, at which learning rate, and what is added later."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage

from meanflow_tune.core.random import fold
from meanflow_tune.plan import confirm
from meanflow_tune.plan.confirm import (
    FACTORS,
    Entry,
    Pair,
    Side,
    entries,
    pairs,
    sides,
    suggester,
    table,
    trained,
)
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Outcome, Report, TrialRecord
from meanflow_tune.search.store.trials import BASELINE, read_records
from tests.support.confirmation import FACTOR, GAP, SEARCH, SEARCH_SEED, SPACE, record, run


def fixed(entry: Entry) -> optuna.trial.FixedTrial:
    """A trial of the confirming study with an entry's parameters."""
    trial = optuna.trial.FixedTrial(entry.params)
    trial.set_user_attr(BASELINE, entry.name)
    return trial


def chosen(count: int, records: list[TrialRecord] = SEARCH) -> list[Side]:
    return sides(records, SPACE, GAP, count)


def test_one_is_the_best_proposed_trial_and_the_best_reference_baseline() -> None:
    assert [side.name for side in chosen(1)] == ["trial 1 (mid)", "trial 5"]
    assert chosen(0) == []
    wanted = entries(chosen(1), [], GAP, SEARCH_SEED, 2)
    assert [(entry.candidate, entry.factor) for entry in wanted] == [(1, None), (5, None)] * 2
    assert len({entry.seed for entry in wanted}) == 2
    assert entries(chosen(1), [], GAP, SEARCH_SEED, 0) == []


def test_a_better_baseline_of_another_family_is_confirmed_beside_the_best_proposed() -> None:
    better = [record(r.number, 0.01, "forward") if r.baseline == "forward" else r for r in SEARCH]
    assert [side.name for side in chosen(1, better)] == [
        "trial 1 (mid)",
        "trial 2 (forward)",
        "trial 5",
    ]


def test_from_two_on_every_family_of_baselines_is_there_with_its_best() -> None:
    found = chosen(2)
    assert [(side.name, side.untuned) for side in found] == [
        ("trial 1 (mid)", False),
        ("trial 2 (forward)", True),
        ("trial 3 (bent)", True),
        ("trial 5", False),
        ("trial 7", False),
    ]
    assert [side.name for side in chosen(3)[:-1]] == [side.name for side in found], "only added to"


def test_nothing_to_compare_is_nothing_to_confirm() -> None:
    assert chosen(2, SEARCH[:2]) == []
    assert chosen(1, SEARCH[2:]) == []
    assert table([], [], GAP, SEARCH_SEED) == []


def test_an_untuned_baseline_runs_at_three_rates_and_goes_on_with_the_best() -> None:
    seed = confirm.tuning_seed(SEARCH_SEED)
    fresh = confirm.fresh_seeds(SEARCH_SEED, 2)
    assert seed not in fresh
    first = entries(chosen(2), [], GAP, SEARCH_SEED, 2)
    tuning = [entry for entry in first if entry.seed == seed]
    assert [(e.candidate, e.factor) for e in tuning] == [(n, f) for n in (2, 3) for f in FACTORS]
    assert {entry.candidate for entry in first if entry.seed in fresh} == {1, 5, 7}
    ended = [
        *(run(Entry(2, seed, FACTORS[n]), v, n) for n, v in enumerate((0.9, 0.8, 0.1))),
        run(Entry(3, seed, FACTORS[0]), 0.2, 3, status="diverged"),
        run(Entry(3, seed, 1.0), 0.3, 4),
    ]
    before = entries(chosen(2), ended, GAP, SEARCH_SEED, 2)
    assert {e.candidate for e in before if e.seed in fresh} == {1, 2, 5, 7}, "3 is not settled"
    settled = [*ended, run(Entry(3, seed, 3.0), 0.4, 5)]
    after = entries(chosen(2), settled, GAP, SEARCH_SEED, 2)
    rates = {entry.candidate: entry.factor for entry in after if entry.seed in fresh}
    assert rates == {1: None, 2: 3.0, 3: None, 5: None, 7: None}, "a diverged rate is not chosen"
    assert len({entry.name for entry in after}) == len(after) == 6 + 10


def test_a_rate_that_no_configuration_allows_is_not_tried() -> None:
    high = replace(SEARCH[2], config=SEARCH[2].config | {"optimizer": {"learning_rate": 0.5}})
    wanted = entries([Side("forward", high, True)], [], GAP, SEARCH_SEED, 1)
    assert [entry.factor for entry in wanted] == [FACTORS[0], 1.0]


def test_asking_for_more_adds_only_what_is_missing() -> None:
    small = {entry.name for entry in entries(chosen(1), [], GAP, SEARCH_SEED, 2)}
    seeds = {entry.name for entry in entries(chosen(1), [], GAP, SEARCH_SEED, 4)}
    more = {entry.name for entry in entries(chosen(3), [], GAP, SEARCH_SEED, 2)}
    assert small < seeds
    assert small < more


def test_configurations_differ_in_seed_latents_rungs_and_rate_only() -> None:
    seed, fresh = confirm.tuning_seed(SEARCH_SEED), confirm.fresh_seeds(SEARCH_SEED, 1)[0]
    wanted = [Entry(2, seed, 3.0), Entry(2, fresh, 1 / 3), Entry(1, fresh)]
    suggest = suggester(SEARCH, wanted, SEARCH_SEED)
    made = [suggest(fixed(entry)) for entry in wanted]
    assert [config["optimizer"]["learning_rate"] for config in made] == pytest.approx(
        [0.03, 0.01 / 3, 0.01]
    )
    assert [config["seed"] for config in made] == [seed, fresh, fresh]
    assert all(config["budget"]["rungs"] == [1.0] for config in made)
    latents = [config["evaluation"]["latent_seed"] for config in made]
    assert latents[1] == latents[2]
    assert len({*latents, 20_000}) == 3, "tuning, confirming and searching see different latents"
    assert latents[1] == fold(SEARCH_SEED, "confirm", "latents") % confirm.SEED_LIMIT
    assert made[2]["optimizer"] == SEARCH[1].config["optimizer"]
    assert SEARCH[2].config["optimizer"]["learning_rate"] == 0.01, "the search's stays"


def confirming(
    storage: InMemoryStorage,
    count: int,
    seeds: int,
    runs: int | None = None,
    earlier: Sequence[TrialRecord] = (),
) -> list[TrialRecord]:
    """Run the confirming study as the driver does, `runs` trials at most; its records."""
    left = 1000 if runs is None else runs
    request = SearchRequest(
        study="toy",
        trials=8,
        storage=Path("none"),
        seed=SEARCH_SEED,
        confirm=count,
        confirm_seeds=seeds,
    )
    plan = Plan(request, SPACE, GAP, lambda trial: {}, (), "", None)
    total = 0
    while True:
        found = confirm.make_ledger(plan, storage, SEARCH, earlier, lambda: None, 1)
        assert found is not None
        if found[1] <= total:
            return list(earlier)
        ledger, total = found
        while left and (job := ledger.next()) is not None:
            left -= 1
            rate = job.config["optimizer"]["learning_rate"]
            gap = job.config["mark"] + abs(rate - 0.03) + job.config["seed"] % 7
            ledger.record(job.number, Report(100, {"gap@1": gap}, {}, 0.0))
            ledger.finish(job.number, Outcome("completed"))
        earlier = ledger.records()
        if not left:
            return list(earlier)


def names(records: list[TrialRecord]) -> list[str | None]:
    return [record.baseline for record in records]


def test_a_confirmation_stopped_anywhere_ends_as_one_that_was_not() -> None:
    whole = confirming(InMemoryStorage(), 2, 2)
    assert len(whole) == 6 + 5 * 2 == confirm.planned_runs(SPACE, 2, 2)
    for place in (1, 5, 6, 9, 14):
        storage = InMemoryStorage()
        assert len(confirming(storage, 2, 2, place)) == place
        again = confirming_again(storage)
        assert sorted(map(str, names(again))) == sorted(map(str, names(whole)))


def confirming_again(storage: InMemoryStorage) -> list[TrialRecord]:
    """The same command again: it reads what there is before it names what is missing."""
    earlier = read_records(storage, "toy/confirm", Path("none"))
    return confirming(storage, 2, 2, earlier=earlier)


def test_extending_a_confirmation_keeps_its_runs() -> None:
    storage = InMemoryStorage()
    first = confirming(storage, 1, 2)
    assert len(first) == 4
    assert confirm.planned_runs(SPACE, 1, 2) == 6, "where another baseline is better than 5"
    more = confirming(storage, 2, 3, earlier=first)
    assert [r.baseline for r in more[:4]] == names(first)
    assert len(more) == 6 + 5 * 3
    assert len(set(names(more))) == len(more), "no run twice"
    rows = table(chosen(2), more, GAP, SEARCH_SEED)
    assert [row.name for row in rows] == [
        "trial 1 (mid)",
        "trial 2 (forward) at 3 x its learning rate",
        "trial 3 (bent) at 3 x its learning rate",
        "trial 5",
        "trial 7",
    ]
    assert {len(row.seeds) for row in rows} == {3}, "the tuning seed confirms nothing"
    difference = rows[3].against["gap@1"]
    assert (difference.mean, difference.low) == pytest.approx((4.0, 4.0)), "the seed cancels"


def sides_of(found: Sequence[Pair]) -> list[tuple[str, str]]:
    return [(pair.without.name, pair.including.name) for pair in found]


def test_each_side_of_a_question_is_trained_on_the_same_seeds() -> None:
    found = pairs(chosen(1), FACTOR)
    assert sides_of(found) == [
        ("trial 1 (mid) without an odd mark", "trial 1 (mid)"),
        ("trial 5 without an odd mark", "trial 5"),
    ]
    every = trained(chosen(1), FACTOR)
    assert [side.switched for side in every] == [False, False, True, True]
    wanted = entries(every, [], GAP, SEARCH_SEED, 2)
    assert len({entry.name for entry in wanted}) == 8
    assert wanted[3].name.startswith("trial 5 without an odd mark, seed ")
    suggest = suggester(SEARCH, wanted, SEARCH_SEED, FACTOR)
    assert [suggest(fixed(entry))["mark"] for entry in wanted] == [1, 5, 0, 4] * 2
    runs = [run(entry, 0.1 * n, n) for n, entry in enumerate(wanted)]
    assert [record.number for record in confirm.runs_of(every[3], runs, GAP, SEARCH_SEED)] == [3, 7]
    assert [record.number for record in confirm.runs_of(every[1], runs, GAP, SEARCH_SEED)] == [1, 5]


def test_a_counterpart_that_is_confirmed_anyway_is_not_trained_twice() -> None:
    four = replace(record(4, 0.01, "forward"), baseline="forward")
    sides_now = chosen(1, [*SEARCH[:4], four, *SEARCH[5:]])
    assert [side.name for side in sides_now] == ["trial 1 (mid)", "trial 4 (forward)", "trial 5"]
    assert sides_of(pairs(sides_now, FACTOR))[1:] == [("trial 4 (forward)", "trial 5")]
    assert sum(side.switched for side in trained(sides_now, FACTOR)) == 1


def test_families_of_a_question_answer_it_by_themselves() -> None:
    families = replace(FACTOR, families={"backward": "forward"})
    found = sides_of(pairs(chosen(2), families))
    assert found[0] == ("trial 1 (mid)", "trial 2 (forward)")
    assert found[1:] == [("trial 5 without an odd mark", "trial 5")], "7 has no counterpart"
    alone = [pair.including.name for pair in pairs(chosen(2), FACTOR)]
    assert alone == ["trial 1 (mid)", "trial 5"], "other families have no pair"
    assert pairs(chosen(2), None) == []


def test_a_switched_side_takes_the_learning_rate_that_was_tuned() -> None:
    seed, fresh = confirm.tuning_seed(SEARCH_SEED), confirm.fresh_seeds(SEARCH_SEED, 1)[0]
    base = Side("trial 2 (forward)", SEARCH[2], untuned=True)
    every = [base, replace(base, name="trial 2 (forward) with an odd mark", switched=True)]
    first = entries(every, [], GAP, SEARCH_SEED, 1)
    assert [(e.seed, e.switched) for e in first] == [(seed, False)] * 3, "tuned once"
    ended = [
        run(Entry(2, seed, f), v, n)
        for n, (f, v) in enumerate(zip(FACTORS, (3, 2, 1), strict=True))
    ]
    after = [e for e in entries(every, ended, GAP, SEARCH_SEED, 1) if e.seed == fresh]
    assert [(e.factor, e.switched) for e in after] == [(3.0, False), (3.0, True)]
    suggest = suggester(SEARCH, after, SEARCH_SEED, FACTOR)
    rates = [suggest(fixed(entry))["optimizer"]["learning_rate"] for entry in after]
    assert rates == pytest.approx([0.03, 0.03])
