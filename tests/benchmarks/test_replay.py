"""Replay: every search that it runs, ours and stock behaviour, on a table; and the command."""

import itertools
import json
import math
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from benchmarks.replay import options
from benchmarks.replay.arms import Arm, Stock, default_arms, stock_rungs
from benchmarks.replay.command import FRACTIONS, make_problem, measure
from benchmarks.replay.rows import Proposal, RowSuggester, log_ratios
from benchmarks.replay.simulation import METRIC, simulate
from benchmarks.replay.table import Table, make_table
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Outcome, Report
from meanflow_tune.search.samplers.factory import SAMPLER_KINDS
from meanflow_tune.search.study.ledger import Ledger
from scripts.benchmark import main
from tests.support.replay_cases import OBJECTIVE, flat, space, trials, write_study


@pytest.fixture(scope="module")
def table() -> Table:
    return make_table("s", *trials(30), OBJECTIVE)


def test_random_search_finds_what_draws_without_replacement_find() -> None:
    """Expected least of k of the values 0 .. n-1 without replacement: (n + 1)/(k + 1) - 1."""
    n, repetitions = 24, 60
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
                params=row.params, distributions=row.distributions, value=row.curve.values[-1]
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
    distributions = table.distributions
    for group in (["kind", "steps", "x"], ["rate"]):
        searched = {name: distributions[name] for name in group}
        good, bad = (
            sampler._build_parzen_estimator(study, searched, part, handle_below=flag)
            for part, flag in ((below, True), (above, False))
        )
        for k, i in enumerate(rows):
            params = table.rows[i].params
            if all(name in params for name in group):
                point = {n: np.array([distributions[n].to_internal_repr(params[n])]) for n in group}
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
                    params=row.params, distributions=row.distributions, value=row.curve.values[-1]
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
    with pytest.raises(ValueError, match='"nearest" needs a space'):
        RowSuggester(table, "nearest", 0, None)


SAMPLERS = tuple(k for k in SAMPLER_KINDS if k != "cmaes" or find_spec("cmaes") is not None)
SCHEDULERS = ("asha", "median", "none")
QUICK = [
    *itertools.product(("tpe", "random", "qmc"), SCHEDULERS),
    *((sampler, "asha") for sampler in SAMPLERS if sampler not in ("tpe", "random", "qmc")),
]


@pytest.mark.parametrize("kind", ["rows", "surrogate"])
def test_every_sampler_and_every_scheduler_runs(kind: str, table: Table) -> None:
    check_runs(kind, table, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows", "surrogate"])
def test_every_sampler_runs_with_every_scheduler(kind: str, table: Table) -> None:
    check_runs(kind, table, list(itertools.product(SAMPLERS, SCHEDULERS)))


def check_runs(kind: str, table: Table, pairs: list[tuple[str, str]]) -> None:
    problem = make_problem(table, kind, space)
    combined = [
        Arm(f"{sampler}/{scheduler}", sampler=sampler, scheduler=scheduler)  # type: ignore[arg-type]
        for sampler, scheduler in pairs
    ]
    more = [
        Arm("stop", promotion=False, reduction=3.0),
        Arm("late", grace=15, brackets=2, protect=0.5),
        Arm("stock", stock=True, reduction=4.0),
    ]
    found = measure(problem, [*combined, *more], trials=10, workers=2, repetitions=1)
    for name, regret in found.regrets.items():
        assert np.isfinite(regret[0, -1]), name
        known = regret[0][np.isfinite(regret[0])]
        assert (np.diff(known) <= 0).all(), name
    # Stopping early lets more trials begin in the same time.
    assert found.started["tpe/asha"] > found.started["tpe/none"]


def test_arms_have_the_defaults_of_the_command() -> None:
    request = SearchRequest(study="s")
    arm = Arm("ours")
    for name in options.SEARCH:
        assert getattr(arm, name) == getattr(request, name), name
    names = [one.name for one in default_arms(arm)]
    assert names[0] == "ours"
    assert "ours, no promotion" in names
    assert {one.mapping for one in default_arms(Arm("ours", sampler="qmc"))} == {"nearest", "ratio"}


def test_stock_rungs_are_those_of_ray() -> None:
    """ray.tune.schedulers.async_hyperband._Bracket: grace * factor^k up to the end, highest first."""
    assert [place for place, _ in stock_rungs(10, 100, 4.0)] == [40.0, 10.0]
    assert [place for place, _ in stock_rungs(1, 81, 3.0)] == [81.0, 27.0, 9.0, 3.0, 1.0]


def test_stock_tells_stopped_trials_as_complete_with_the_value_of_their_rung() -> None:
    """The trap of STACK_FACTS: "values of different fidelities told as COMPLETE"."""
    table = flat([float(i) for i in range(24)], rungs=10)
    stock = Stock(table, lambda trial: {}, 24, seed=0, reduction=4.0)
    decisions = []
    for value in (5.0, 3.0, 4.0, 2.0):
        job = stock.next()
        assert job is not None
        decisions.append(stock.record(job.number, Report(1, {METRIC: value}, {}, 0.0)).go_on)
        if not decisions[-1]:
            stock.finish(job.number, Outcome("pruned"))
    # Ray compares rewards (-value) with the 75th percentile of those before: 5 passes as the first,
    # 3 is better than 5, 4 is worse than the percentile of (-5, -3), which is -3.5; 2 is the best.
    assert decisions == [True, True, False, True]
    told = stock._study.get_trials(states=(TrialState.COMPLETE,))
    assert [trial.value for trial in told] == [4.0]
    # At the end of the budget nothing is stopped, whatever Ray's last milestone says.
    assert stock.record(0, Report(10, {METRIC: 99.0}, {}, 0.0)).go_on


def test_stock_leaves_a_diverged_trial_running() -> None:
    """`tell` raises for NaN, OptunaSearch only logs it, and the trial repels samples until the end."""
    stock = Stock(flat([float(i) for i in range(24)]), lambda trial: {}, 24, seed=0)
    job = stock.next()
    assert job is not None
    stock.finish(job.number, Outcome("diverged"))
    assert stock._study.get_trials()[0].state == TrialState.RUNNING


SPACE = """
GOAL = "find x"
OBJECTIVE = "gap@1"
BASELINES = {}
from tests.support.replay_cases import space as suggest
"""


def test_the_command_prints_a_verdict_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "study")
    (tmp_path / "toy.py").write_text(SPACE)
    files = ["--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "r.png")]
    small = ["replay", "--study", str(tmp_path / "study"), "--repetitions", "2", "--jobs", "1"]
    assert main([*small, "--trials", "16", *files]) == 0
    out, err = capsys.readouterr()
    assert "20 rows, 0 of them baselines and 0 diverged, rungs at 10, 20, 40 images" in out
    assert "decision: ours " in out
    assert "note: these searches started nearly all of the 20 rows (ours" in out
    assert "12 of 12 searches" in err
    found = json.loads((tmp_path / "r.json").read_text())
    assert len(found["regrets"]["stock Ray + Optuna"]) == 2
    assert found["regrets"]["random"][0][0] is None  # no trial had run through so early
    assert found["command"][-2:] == files[-2:]
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert main([*small, "--space", str(tmp_path / "toy.py"), "--sampler", "qmc"]) == 0
    out = capsys.readouterr().out
    assert "note: the space toy has changed since the study was made" in out


def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path)
    small = ["replay", "--study", str(tmp_path), "--jobs", "1", "--repetitions", "2"]
    for more, message in (
        (["--trials", "21"], "--trials 21: the table has 20 rows, and none is run twice"),
        (["--plot", str(tmp_path / "no" / "r.png")], "there is no folder"),
        (["--table", "surrogate"], "search space 'none' is unknown"),
        (["--trials", "1", "--workers", "8"], "completed no trial in its budget"),
    ):
        assert main([*small, *more]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("benchmark.py: ")
        assert message in error
    for option, value, message in (
        ("--reduction", "1", "--reduction: Input should be greater than 1 (got 1.0)"),
        ("--protect", "2", "--protect: Input should be less than or equal to 1 (got 2.0)"),
        ("--startup-trials", "0", "--startup-trials: Input should be greater than or equal to 1"),
    ):
        assert main([*small, option, value]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"benchmark.py: {message}")
