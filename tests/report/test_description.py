"""The description of a search in MLflow, from its findings."""

from pathlib import Path

from meanflow_tune.plan import confirm
from meanflow_tune.plan.confirm import Entry
from meanflow_tune.plan.findings import find
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.report.description import describe
from tests.support.confirmation import GAP, SEARCH, SEARCH_SEED, SPACE, run


def plan(folder: Path) -> Plan:
    request = SearchRequest(study="toy", trials=8, storage=folder, seed=SEARCH_SEED)
    return Plan(request, SPACE, GAP, lambda trial: {}, (), "", None)


def test_without_fresh_seeds_nothing_is_called_better(tmp_path: Path) -> None:
    made = plan(tmp_path)
    text = describe(made, find(made, SEARCH, []), "tune.py --study toy")
    assert text.startswith("**Which one is best?**")
    assert "| leader | trial 5, proposed | 0.2000 |" in text
    assert "| reference | trial 1 (mid), baseline mid | 0.4000 |" in text
    assert "nothing here is called better" in text
    assert "```console\ntune.py --study toy\n```" in text


def test_fresh_seeds_and_the_answer(tmp_path: Path) -> None:
    made = plan(tmp_path)
    first, second = confirm.fresh_seeds(SEARCH_SEED, 2)
    values = [(5, first, 0.2), (1, first, 0.4), (5, second, 0.25), (1, second, 0.4)]
    confirmed = [run(Entry(t, seed, None), x, n) for n, (t, seed, x) in enumerate(values)]
    text = describe(made, find(made, SEARCH, confirmed), "tune.py", ["Trial 5 | wins."])
    assert "Trial 5 \\| wins." in text
    assert "Retrained on 2 fresh seeds" in text
    assert "**leans better**" in text, "two seeds say no more"
    assert "`--confirm-seeds 6` makes it 95 %" in text


def test_a_search_without_a_completed_trial_says_so(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert "No trial completed yet" in describe(made, find(made, [], []), "tune.py")
