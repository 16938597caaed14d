"""The fidelity audit: its rank correlation against SciPy's, and what it says of rungs by design."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from meanflow_tune.records import Report, Status, TrialRecord
from meanflow_tune.report.tables import audit_lines
from meanflow_tune.search.analysis import rung_audit as module
from meanflow_tune.search.analysis.rung_audit import FEWEST, audit, kendall
from meanflow_tune.search.objectives import SearchObjective
from tests.support.records import record

GAP = SearchObjective.parse("gap@1")
RUNGS = (100, 200, 400)


def trial(
    number: int, *values: float, protected: bool = False, baseline: str | None = None
) -> TrialRecord:
    """Completed where it has a value at all three rungs."""
    reports = tuple(Report(i, {"gap@1": v}, {}, 0.0) for i, v in zip(RUNGS, values, strict=False))
    status: Status = "completed" if len(values) == len(RUNGS) else "pruned"
    made = record(number, status, values[-1], baseline=baseline)
    return replace(made, reports=reports, protected=protected)


def study(count: int, *, first: float, second: float, seed: int = 0) -> list[TrialRecord]:
    """Final values with noise before: `first` and `second` are its standard deviations."""
    generator = np.random.default_rng(seed)
    final = generator.normal(size=count)
    noise = generator.normal(size=(2, count)) * np.array([[first], [second]])
    return [
        trial(n, final[n] + noise[0, n], final[n] + noise[1, n], final[n]) for n in range(count)
    ]


@pytest.mark.parametrize("levels", [0, 4])
def test_the_rank_correlation_is_scipys(levels: int) -> None:
    generator = np.random.default_rng(5)
    x = generator.normal(size=40)
    y = x + generator.normal(size=40)
    if levels:  # ties
        x, y = np.round(x * levels / 4), np.round(y * levels / 4)
    tau, low, high = kendall(list(zip(x, y, strict=True)))
    assert tau == pytest.approx(stats.kendalltau(x, y).statistic)
    assert low is not None
    assert high is not None
    assert low < tau < high
    draws = generator.integers(40, size=(400, 40))
    theirs = [stats.kendalltau(x[rows], y[rows]).statistic for rows in draws]
    assert (low, high) == pytest.approx(tuple(np.quantile(theirs, (0.025, 0.975))), abs=0.06)


def test_a_rung_that_predicts_and_one_that_does_not() -> None:
    found = audit(study(40, first=20.0, second=0.1), GAP)
    assert [rung.images for rung in found.rungs] == [100, 200]
    assert [rung.predicts for rung in found.rungs] == [False, True]
    assert found.advice is not None
    assert "raise --grace to 200" in found.advice
    good = audit(study(40, first=0.1, second=0.1), GAP)
    assert good.advice is None
    assert len(audit_lines(good)) == 1
    assert "rank correlation with the final value +0.9" in audit_lines(good)[0]


def test_where_no_rung_predicts_it_advises_to_stop_nothing() -> None:
    found = audit(study(60, first=50.0, second=50.0, seed=3), GAP)
    assert [rung.predicts for rung in found.rungs] == [False, False]
    assert found.advice is not None
    assert "--scheduler none" in found.advice
    assert audit_lines(found)[-1].startswith("warning: the rung at 100 images")


def test_few_trials_are_called_few() -> None:
    found = audit(study(FEWEST - 1, first=50.0, second=50.0), GAP)
    assert [rung.predicts for rung in found.rungs] == [None, None]
    assert found.advice is None
    assert audit_lines(found) == [
        "100 images: too few trials ran to the end to judge it (7); "
        "200 images: too few trials ran to the end to judge it (7)"
    ]
    assert audit([], GAP).rungs == ()


def test_never_stopped_trials_are_judged_alone_where_there_are_enough() -> None:
    """The others are those that the rungs let through: in them the early value tells less."""
    through = study(30, first=1.0, second=1.0)
    stopped = [trial(100 + n, 5.0) for n in range(5)]
    free = [
        trial(200 + n, float(n), float(n), float(n), protected=n % 2 == 0, baseline=name)
        for n, name in enumerate([None, "plain"] * (FEWEST // 2))
    ]
    found = audit([*through, *stopped, *free], GAP)
    assert found.selected
    assert {(rung.count, rung.unselected) for rung in found.rungs} == {(FEWEST, True)}
    assert [rung.correlation for rung in found.rungs] == pytest.approx([1.0, 1.0])
    fewer = audit([*through, *stopped, *free[1:]], GAP)
    assert {(rung.count, rung.unselected) for rung in fewer.rungs} == {(30 + FEWEST - 1, False)}
    assert any("that the rungs let through" in line for line in audit_lines(fewer))
    assert not audit(through, GAP).selected
    assert all(rung.unselected for rung in audit(through, GAP).rungs), "nothing was stopped"


def test_equal_values_have_no_order() -> None:
    same = [trial(n, 1.0, 1.0, float(n)) for n in range(20)]
    assert audit(same, GAP).rungs[0].correlation is None
    assert audit(same, GAP).advice is None


def test_of_very_many_trials_the_newest_are_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs are compared, so memory is quadratic in the trials."""
    monkeypatch.setattr(module, "MOST", 20)
    records = [*study(50, first=0.0, second=0.0), *study(20, first=50.0, second=50.0, seed=3)]
    found = audit(records, GAP)
    assert {rung.count for rung in found.rungs} == {20}
    assert found.rungs[0].predicts is False
