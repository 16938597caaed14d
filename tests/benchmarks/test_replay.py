"""Replay: the table, simulated time, the statistics, and every search that it can run."""

import itertools
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from scipy import stats

from meanflow_tune.benchmarks import replay_options
from meanflow_tune.benchmarks.replay import FRACTIONS, make_problem, measure
from meanflow_tune.benchmarks.replay_arms import Arm, Stock, default_arms, stock_rungs
from meanflow_tune.benchmarks.replay_rows import Proposal, RowSuggester, log_ratios
from meanflow_tune.benchmarks.replay_simulation import METRIC, simulate
from meanflow_tune.benchmarks.replay_statistics import (
    best_so_far,
    compare,
    estimate_iqm,
    interquartile_mean,
)
from meanflow_tune.benchmarks.replay_surrogate import Surrogate
from meanflow_tune.benchmarks.replay_table import (
    Curve,
    Table,
    distance,
    load_table,
    make_table,
    unit,
    without_baselines,
)
from meanflow_tune.records import Job, Outcome, Report, Status, TrialRecord
from meanflow_tune.request import SearchRequest
from meanflow_tune.search.ledger import Ledger
from meanflow_tune.search.manifest import Manifest
from meanflow_tune.search.objective import SearchObjective
from meanflow_tune.search.rungs import Verdict
from meanflow_tune.search.storage import JOURNAL_NAME, open_storage

OBJECTIVE = SearchObjective.parse("gap@1")
RUNGS = (10, 20, 40)


def space(trial: Any) -> dict[str, Any]:
    """Conditional, with a categorical, a logarithmic and an integer parameter."""
    config: dict[str, Any] = {"x": trial.suggest_float("x", -1.0, 1.0)}
    config["kind"] = trial.suggest_categorical("kind", ["plain", "bent"])
    if config["kind"] == "bent":
        config["rate"] = trial.suggest_float("rate", 1e-3, 1.0, log=True)
    config["steps"] = trial.suggest_int("steps", 1, 4)
    return config


def gap(params: dict[str, Any]) -> float:
    return 0.1 + (params["x"] - 0.3) ** 2 + 0.2 * params.get("rate", 0.5)


def trials(count: int, diverged: int = 0) -> tuple[list[TrialRecord], dict[int, Any]]:
    """Blind draws of `space` that ran through, the last ones diverged after their first rung."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    records, laws = [], {}
    for number in range(count):
        trial = study.ask()
        space(trial)
        status: Status = "diverged" if number >= count - diverged else "completed"
        reports = tuple(
            Report(images, {"gap@1": gap(trial.params) * (1 + 4 / images)}, {"cpu_seconds": images / 10}, 0.0)
            for images in (RUNGS if status == "completed" else RUNGS[:1])
        )  # fmt: skip
        baseline = f"base{number}" if number < 2 else None
        records.append(
            TrialRecord(
                "s",
                number,
                status,
                dict(trial.params),
                {},
                None,
                baseline,
                reports,
                "",
                0,
                "",
                0,
                0,
            )
        )
        laws[number] = trial.distributions
    return records, laws


@pytest.fixture(scope="module")
def table() -> Table:
    return make_table("s", *trials(30), OBJECTIVE)


def flat(values: list[float], costs: list[float] | None = None, rungs: int = 1) -> Table:
    """A table of one parameter whose rows have these final values."""
    costs = costs or [1.0] * len(values)
    law = optuna.distributions.FloatDistribution(0.0, float(len(values)))
    records = [
        TrialRecord(
            "s", i, "completed", {"x": i + 0.5}, {}, None, None,
            tuple(Report(k + 1, {"gap@1": value}, {"cpu_seconds": cost * (k + 1) / rungs}, 0.0)
                  for k in range(rungs)),
            "", 0, "", 0, 0,
        )
        for i, (value, cost) in enumerate(zip(values, costs, strict=True))
    ]  # fmt: skip
    return make_table("s", records, {i: {"x": law} for i in range(len(values))}, OBJECTIVE)


# --- the table ---


def test_rows_hold_values_and_costs_at_every_rung() -> None:
    records, laws = trials(30, diverged=4)
    table = make_table("s", records, laws, OBJECTIVE)
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
    assert make_table("s", records, laws, OBJECTIVE, "images").rows[5].curve.costs == RUNGS


def test_what_has_no_final_value_is_left_out_and_named() -> None:
    from dataclasses import replace

    records, laws = trials(30)
    records[7] = replace(records[7], status="pruned", reports=records[7].reports[:1])
    records[8] = replace(records[8], status="failed", reports=())
    records[9] = replace(records[9], reports=records[9].reports[:2])
    table = make_table("s", records, laws, OBJECTIVE)
    assert table.left_out == {"pruned": 1, "failed": 1, "with other rungs": 1}
    assert "left out, for want of a final value: 1 pruned, 1 failed" in table.describe()
    with pytest.raises(ValueError, match=r"has 17 trials that ran through, and a replay needs 20"):
        make_table("s", records[:20], laws, OBJECTIVE)
    records[3] = replace(records[3], reports=tuple(replace(r, cost={}) for r in records[3].reports))
    with pytest.raises(ValueError, match="trial 3 reports no gpu_seconds or cpu_seconds"):
        make_table("s", records, laws, OBJECTIVE)


def test_a_study_is_read_from_its_folder(tmp_path: Path) -> None:
    """Written by the ledger, read without a fence, and not changed by it."""
    with pytest.raises(ValueError, match=r"there is no manifest.json; name a study's folder"):
        load_table(tmp_path)
    Manifest.make(
        study="s", space="none", space_hash="", goal="g", objective="gap@1", overrides=(),
        sampler="random", seed=0, rungs="none", data_fingerprint="",
    ).write(tmp_path)  # fmt: skip
    budget = {"budget": {"images": 40, "global_batch": 1}}
    ledger = Ledger(
        storage=open_storage(tmp_path / JOURNAL_NAME, lambda: None), study_name="s",
        suggest=lambda trial: space(trial) | budget, baselines={}, objectives=OBJECTIVE, rungs=None,
        sampler="random", seed=0, total=20, folder=tmp_path, fence=lambda: None,
    )  # fmt: skip
    while (job := ledger.next()) is not None:
        for images in RUNGS:
            metrics = {"gap@1": gap(job.config) * (1 + 4 / images)}
            ledger.record(job.number, Report(images, metrics, {"cpu_seconds": images / 10}, 0.0))
        ledger.finish(job.number, Outcome("completed"))
    before = (tmp_path / JOURNAL_NAME).read_bytes()
    table, manifest = load_table(tmp_path)
    assert manifest.study == "s"
    assert [row.params for row in table.rows] == [record.params for record in ledger.records()]
    assert [row.curve.values[-1] for row in table.rows] == [r.value for r in ledger.records()]
    assert (tmp_path / JOURNAL_NAME).read_bytes() == before


def test_distance_of_conditional_configurations(table: Table) -> None:
    a = {"x": -1.0, "kind": "bent", "rate": 1e-3, "steps": 1}
    laws = table.laws
    assert distance(a, a, laws) == 0.0
    assert distance(a, a | {"x": 0.0}, laws) == pytest.approx(0.5)
    assert distance(a, a | {"rate": 10**-1.5}, laws) == pytest.approx(0.5)  # on a log scale
    assert distance(a, a | {"steps": 4}, laws) == pytest.approx(1.0)
    plain = {"x": -1.0, "kind": "plain", "steps": 1}
    assert distance(a, plain, laws) == distance(plain, a, laws) == pytest.approx(1.0 + 1.0 / 3.0)
    # 1/3 is what two uniform places differ by on average.
    draws = np.random.default_rng(0).random((2, 200_000))
    assert abs(draws[0] - draws[1]).mean() == pytest.approx(1 / 3, abs=2e-3)
    assert unit(1, laws["steps"]) == 0.0


# --- simulated time ---


class Queue:
    """Hands out numbered jobs and stops those it is told to, after their first rung."""

    def __init__(self, count: int, stop: dict[int, int] | None = None) -> None:
        self.left = list(range(count))
        self.stop = dict(stop or {})  # number -> how many times it stops before it may go on
        self.seen: list[tuple[float, int, int]] = []
        self.ended: list[tuple[int, str]] = []
        self.paused: list[int] = []

    def next(self) -> Job | None:
        queue = self.left or self.paused
        return Job("s", number := queue.pop(0), {"n": number}, "", 0, 0) if queue else None

    def record(self, number: int, report: Report) -> Verdict:
        self.seen.append((report.time, number, report.images))
        stops = self.stop.get(number, 0)
        self.stop[number] = stops - 1
        return Verdict(stops <= 0, "")

    def finish(self, number: int, outcome: Outcome) -> None:
        self.ended.append((number, outcome.status))
        if outcome.status == "pruned":
            self.paused.append(number)


def test_the_clock_of_several_workers() -> None:
    """Trials of 3, 1, 1 and 5 on two workers: the second serves both short ones."""
    lengths = [3.0, 1.0, 1.0, 5.0]
    queue = Queue(4)
    run = simulate(queue, lambda c: Curve((c["n"],), (lengths[c["n"]],)), (1,), 2, 100.0)
    assert run.completed == ((1.0, 1), (2.0, 2), (3.0, 0), (7.0, 3))
    assert (run.started, run.spent) == (4, 10.0)
    # At the deadline 6.5 of the 10 are spent, and trial 3 is lost.
    run = simulate(Queue(4), lambda c: Curve((c["n"],), (lengths[c["n"]],)), (1,), 2, 3.5)
    assert run.completed == ((1.0, 1), (2.0, 2), (3.0, 0))
    assert (run.started, run.spent) == (4, 3.0 + 1.0 + 1.0 + 1.5)


def test_a_paused_trial_goes_on_where_it_stopped() -> None:
    queue = Queue(2, stop={0: 1})
    run = simulate(queue, lambda c: Curve((9.0, 5.0), (1.0, 4.0)), (10, 20), 1, 100.0)
    # Trial 0 stops at 1, trial 1 takes until 5, then trial 0 needs 3 more; no rung is run twice.
    assert queue.seen == [(1.0, 0, 10), (2.0, 1, 10), (5.0, 1, 20), (8.0, 0, 20)]
    assert queue.ended == [(0, "pruned"), (1, "completed"), (0, "completed")]
    assert (run.completed, run.started, run.spent) == (((5.0, 5.0), (8.0, 5.0)), 2, 8.0)


def test_a_diverging_trial_costs_time_and_gives_nothing() -> None:
    queue = Queue(2)
    curves = [Curve((9.0,), (1.0, 4.0)), Curve((9.0, 5.0), (1.0, 4.0))]
    run = simulate(queue, lambda c: curves[c["n"]], (10, 20), 1, 100.0)
    assert run.completed == ((8.0, 5.0),)
    assert queue.ended == [(0, "diverged"), (1, "completed")]


# --- statistics ---


def test_the_interquartile_mean() -> None:
    assert interquartile_mean([100.0, 1.0, 2.0, 3.0, 4.0, -50.0, 5.0, 6.0]) == pytest.approx(3.5)
    values = np.random.default_rng(1).normal(size=(41, 3))
    cut = 41 // 4
    expected = np.sort(values, axis=0)[cut:-cut].mean(axis=0)
    assert interquartile_mean(values) == pytest.approx(expected)
    # Where no more than a quarter is missing (infinite regret), it is not counted.
    assert interquartile_mean([1.0, 2.0, 3.0, math.inf]) == pytest.approx(2.5)


def test_bootstrap_intervals_agree_with_scipy() -> None:
    values = np.random.default_rng(2).normal(1.0, 2.0, size=60)
    ours = estimate_iqm(values[:, None])[0]
    theirs = stats.bootstrap(
        (values,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile",
        n_resamples=20_000, rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    assert ours.value == pytest.approx(stats.trim_mean(values, 0.25))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.06)
    mean = compare(values, np.zeros(60)).mean
    assert mean.value == pytest.approx(values.mean())
    half = 1.96 * values.std(ddof=1) / math.sqrt(60)
    assert (mean.low, mean.high) == pytest.approx((mean.value - half, mean.value + half), abs=0.1)


def test_verdicts() -> None:
    noise = np.random.default_rng(4).normal(0.0, 0.1, size=40)
    assert compare(noise - 1.0, noise[::-1]).verdict == "ahead"
    assert compare(noise + 1.0, noise[::-1]).verdict == "behind"
    assert compare(noise, noise[::-1]).verdict == "cannot be told apart"
    assert compare([0.0, 1.0, 2.0, 5.0], [1.0, 1.0, 2.0, 1.0]).wins == pytest.approx(0.5)
    with pytest.raises(ValueError, match="completed no trial in its budget"):
        compare([0.0, math.inf], [0.0, 1.0])


def test_the_best_so_far() -> None:
    done = ((1.0, 5.0), (2.0, 7.0), (4.0, 3.0))
    found = best_so_far(done, [0.5, 1.0, 3.9, 4.0], minimize=True)
    assert np.isnan(found[0])
    assert found[1:].tolist() == [5.0, 5.0, 3.0]
    assert best_so_far(done, [2.0], minimize=False).tolist() == [7.0]


# --- searches ---


def test_random_search_finds_what_draws_without_replacement_find() -> None:
    """Expected least of k of the values 0 .. n-1 without replacement: (n + 1)/(k + 1) - 1."""
    n, repetitions = 24, 200
    table = flat([float(i) for i in range(n)])
    problem = make_problem(table, "rows", None)
    arm = Arm("random", sampler="random", scheduler="none")
    found = measure(problem, [arm], trials=12, workers=1, repetitions=repetitions)
    best = found.regrets["random"] * (problem.median - problem.best) + problem.best
    for k in (3, 6, 12):
        at = FRACTIONS.index(k / 12)
        values = best[:, at]
        # Each of C(n, k) sets alike: P(least >= v) = C(n - v, k) / C(n, k).
        chance = [math.comb(n - v, k) / math.comb(n, k) for v in range(n + 1)]
        assert math.fsum(chance[1:]) == pytest.approx((n + 1) / (k + 1) - 1)
        error = values.std(ddof=1) / math.sqrt(repetitions)
        assert abs(values.mean() - math.fsum(chance[1:])) < 4 * error


def test_no_row_is_run_twice_and_parameters_are_those_of_rows(table: Table) -> None:
    problem = make_problem(table, "rows", space)
    for arm in (Arm("a"), Arm("b", sampler="qmc"), Arm("c", sampler="random", nearest=True)):
        director, curve = problem.search(arm, 5)
        assert isinstance(director, Ledger)
        run = simulate(director, curve, table.rungs, 3, math.inf)
        records = director.records()
        assert sorted(record.config["row"] for record in records) == list(range(30))
        for record in records:
            row = table.rows[record.config["row"]]
            assert (record.params, record.baseline) == (row.params, row.baseline)
        assert run.started == 30
        assert min(value for _, value in run.completed) >= problem.best


def asked(study: optuna.Study) -> optuna.trial.FrozenTrial:
    number = study.ask().number
    return study.get_trials(deepcopy=False)[number]


def test_tpe_takes_the_row_with_the_largest_ratio(table: Table) -> None:
    """The sum over groups that is caught equals TPE's own acquisition, computed from its estimators.

    It goes through TPESampler._compute_acquisition_func, which is not public: if that is renamed or
    no longer called, this fails.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = TPESampler(seed=1, n_startup_trials=5, multivariate=True, group=True)
    study = optuna.create_study(sampler=sampler)
    for row in table.rows[:12]:
        study.add_trial(
            optuna.trial.create_trial(
                params=row.params, distributions=row.laws, value=row.curve.values[-1]
            )
        )
    rows = list(range(12, 30))
    trial = asked(study)
    scores = log_ratios(study, trial, table, rows)
    assert scores is not None
    expected = np.zeros(len(rows))
    told = study.get_trials(states=(TrialState.COMPLETE,))
    ordered = sorted(told, key=lambda t: t.value)
    # ceil(0.1 * 12) good ones; widths of kernels at tied integers depend on the order.
    below, above = ordered[:2], sorted(ordered[2:], key=lambda t: t.number)
    laws = table.laws
    for group in (["kind", "steps", "x"], ["rate"]):
        searched = {name: laws[name] for name in group}
        good, bad = (
            sampler._build_parzen_estimator(study, searched, part, handle_below=flag)
            for part, flag in ((below, True), (above, False))
        )
        for k, i in enumerate(rows):
            params = table.rows[i].params
            if all(name in params for name in group):
                point = {n: np.array([laws[n].to_internal_repr(params[n])]) for n in group}
                expected[k] += (good.log_pdf(point) - bad.log_pdf(point)).item()
    assert scores == pytest.approx(expected)
    fresh = optuna.create_study(sampler=sampler)
    assert (
        log_ratios(fresh, asked(fresh), table, rows) is None
    )  # drawn at random before there are trials


def test_searches_with_one_seed_start_alike(table: Table) -> None:
    problem = make_problem(table, "rows", None)
    first: list[list[int]] = []
    for arm in (Arm("tpe", scheduler="none"), Arm("random", sampler="random", scheduler="none")):
        director, curve = problem.search(arm, 3)
        assert isinstance(director, Ledger)
        simulate(director, curve, table.rungs, 1, 4.0 * 12)
        first.append([record.config["row"] for record in director.records()])
    assert first[0][:8] == first[1][:8]
    assert first[0] != first[1]


def test_a_proposal_is_what_the_sampler_would_have_suggested(table: Table) -> None:
    """The nearest row is looked for from the very suggestion that a search without a table gets."""
    seen: list[dict[str, Any]] = []
    for ask in (False, True):
        study = optuna.create_study(
            storage=InMemoryStorage(), sampler=TPESampler(seed=2, n_startup_trials=3)
        )
        for row in table.rows[:6]:
            study.add_trial(
                optuna.trial.create_trial(
                    params=row.params, distributions=row.laws, value=row.curve.values[-1]
                )
            )
        trial = study.ask()
        if ask:
            space(trial)
            seen.append(trial.params)
        else:
            proposal = Proposal(study, study.get_trials(deepcopy=False)[trial.number])
            space(proposal)
            seen.append(proposal.params)
    assert seen[0] == seen[1]
    with pytest.raises(ValueError, match="for which a space is needed"):
        RowSuggester(table, "nearest", 0, None)


SAMPLERS = ("tpe", "random", "qmc")
SCHEDULERS = ("asha", "median", "none")


@pytest.mark.parametrize("kind", ["rows", "surrogate"])
def test_every_sampler_and_scheduler_runs(kind: str, table: Table) -> None:
    problem = make_problem(table, kind, space)
    combined = [
        Arm(f"{sampler}/{scheduler}", sampler=sampler, scheduler=scheduler)  # type: ignore[arg-type]
        for sampler, scheduler in itertools.product(SAMPLERS, SCHEDULERS)
    ]
    more = [
        Arm("stop", promotion=False, reduction=3.0),
        Arm("late", grace=15, brackets=2, protect=0.5),
        Arm("stock", stock=True, reduction=4.0),
    ]
    found = measure(problem, [*combined, *more], trials=12, workers=2, repetitions=1)
    for name, regret in found.regrets.items():
        assert np.isfinite(regret[0, -1]), name
        known = regret[0][np.isfinite(regret[0])]
        assert (np.diff(known) <= 0).all(), name
    # Stopping early lets more trials begin in the same time.
    assert found.started["tpe/asha"] > found.started["tpe/none"]


def test_arms_have_the_defaults_of_the_command() -> None:
    request = SearchRequest(study="s", trials=1, storage=Path())
    arm = Arm("ours")
    for name in replay_options._SEARCH:
        assert getattr(arm, name) == getattr(request, name), name
    names = [one.name for one in default_arms(arm)]
    assert names[0] == "ours"
    assert "ours, no promotion" in names
    assert {one.mapping for one in default_arms(Arm("ours", sampler="qmc"))} == {"nearest", "ratio"}


# --- stock behaviour ---


def test_stock_rungs_are_those_of_ray() -> None:
    """ray.tune.schedulers.async_hyperband._Bracket: grace * factor^k up to the end, highest first."""
    assert [place for place, _ in stock_rungs(10, 100, 4.0)] == [40.0, 10.0]
    assert [place for place, _ in stock_rungs(1, 81, 3.0)] == [81.0, 27.0, 9.0, 3.0, 1.0]


def test_stock_tells_stopped_trials_as_complete_with_the_value_of_their_rung() -> None:
    """The trap of STACK_FACTS: "values of different fidelities told as COMPLETE"."""
    table = flat([float(i) for i in range(24)], rungs=10)
    stock = Stock(table, lambda trial: {}, 24, seed=0, reduction=4.0)
    verdicts = []
    for value in (5.0, 3.0, 4.0, 2.0):
        job = stock.next()
        assert job is not None
        verdicts.append(stock.record(job.number, Report(1, {METRIC: value}, {}, 0.0)).go_on)
        if not verdicts[-1]:
            stock.finish(job.number, Outcome("pruned"))
    # Ray compares rewards (-value) with the 75th percentile of those before: 5 passes as the first,
    # 3 is better than 5, 4 is worse than the percentile of (-5, -3), which is -3.5; 2 is the best.
    assert verdicts == [True, True, False, True]
    told = stock._study.get_trials(states=(TrialState.COMPLETE,))
    assert [trial.value for trial in told] == [4.0]
    # At the end of the budget nothing is stopped, whatever Ray's last milestone says.
    assert stock.record(0, Report(10, {METRIC: 99.0}, {}, 0.0)).go_on


def test_stock_leaves_a_diverged_trial_running() -> None:
    """`tell` raises for NaN, OptunaSearch only logs it, and the trial repels samples for ever."""
    stock = Stock(flat([float(i) for i in range(24)]), lambda trial: {}, 24, seed=0)
    job = stock.next()
    assert job is not None
    stock.finish(job.number, Outcome("diverged"))
    assert stock._study.get_trials()[0].state == TrialState.RUNNING


# --- the surrogate ---


def test_the_surrogate_ranks_and_repeats_itself() -> None:
    records, laws = trials(80)
    table = make_table("s", records, laws, OBJECTIVE)
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
