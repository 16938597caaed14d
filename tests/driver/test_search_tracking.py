"""Which models are kept on disk and logged."""

from dataclasses import replace
from pathlib import Path

import pytest

from meanflow_tune.driver.search_tracking import remove_others, to_log
from meanflow_tune.plan.findings import Findings, find
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from tests.support.confirmation import GAP, SEARCH, SEARCH_SEED, SPACE


def searched(folder: Path, keep: str) -> tuple[SearchRequest, Findings]:
    """All completed trials have models: 5, 7, 4 are the best, 1 the reference."""
    request = SearchRequest(
        study="toy", trials=8, storage=folder, seed=SEARCH_SEED, keep_models=keep
    )
    records = []
    for record in SEARCH:
        place = folder / f"{record.number}"
        (place / "model").mkdir(parents=True)
        (place / "model" / "config.json").write_text("{}")
        (place / "checkpoints").mkdir()
        records.append(replace(record, folder=str(place)))
    plan = Plan(request, SPACE, GAP, lambda trial: {}, (), "", None)
    return request, find(plan, records, [])


@pytest.mark.parametrize(
    ("keep", "logged", "kept"),
    [
        ("all", [5, 7, 4, 2, 1, 0, 3], [0, 1, 2, 3, 4, 5, 6, 7]),
        ("best:2", [5, 7, 1], [1, 5, 6, 7]),
        ("best:1", [5, 1], [1, 5, 6]),
        ("none", [], [1, 5, 6]),
    ],
)
def test_the_best_and_what_the_answer_needs_are_kept(
    tmp_path: Path, keep: str, logged: list[int], kept: list[int]
) -> None:
    request, findings = searched(tmp_path, keep)
    assert [record.number for record in to_log(request, findings)] == logged
    remove_others(request, findings)
    there = [number for number in range(8) if (tmp_path / str(number) / "model").exists()]
    assert there == kept, "trial 6 did not complete, and is not touched"
    assert all((tmp_path / str(number) / "checkpoints").exists() for number in range(8))


@pytest.mark.parametrize("text", ["some", "best", "best:0", "best:-1", "best:x", "5"])
def test_what_keep_models_takes(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="all, none or best:N"):
        SearchRequest(study="toy", storage=tmp_path, keep_models=text)
