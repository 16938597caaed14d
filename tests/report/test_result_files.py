"""Both tables are written with the other result files; only what a disk refuses stops a search."""

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from meanflow_tune import results
from meanflow_tune.files import OnlyShown
from meanflow_tune.plan import findings as findings_module
from meanflow_tune.plan.findings import Findings, find
from meanflow_tune.plan.insight import Insight
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import TrialRecord
from meanflow_tune.report import result_files
from meanflow_tune.report.answer import answer
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.result_files import write_files
from meanflow_tune.search.store.manifest import Manifest
from tests.support.confirmation import SPACE
from tests.support.results.tables import OBJECTIVES, SEED, searched
from tests.support.rungs import make_rungs


def made(folder: Path) -> tuple[Plan, Findings]:
    request = SearchRequest(study="toy", trials=8, storage=folder, seed=SEED)
    plan = Plan(request, SPACE, OBJECTIVES, lambda trial: {}, (), "", make_rungs())
    return plan, find(plan, *searched(request.folder))


def test_both_tables_tell_the_kinds_of_runs(tmp_path: Path) -> None:
    plan, found = made(tmp_path)
    files = write_files(plan, found)
    names = ["results.parquet", "metrics.parquet", "best.json", "best.png", "report.html"]
    assert [path.name for path in files] == names
    study = results.load(plan.request.folder)
    runs = study.trials.groupby("kind")["number"].nunique().to_dict()
    assert runs == {"trial": 6, "tuning": 3, "confirmation": 6}
    assert set(study.metrics[study.metrics["kind"] == "confirmed"]["candidate"]) == {0, 1, 3}


@pytest.mark.parametrize("name", ["results", "metrics"])
def test_a_table_that_cannot_be_made_is_left_out_and_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise TypeError("no such column\nmore")

    plan, found = made(tmp_path)
    said: list[str] = []
    monkeypatch.setattr(result_files, f"write_{name}", broken)
    files = write_files(plan, found, OnlyShown(said.append))
    assert f"{name}.parquet" not in [path.name for path in files]
    assert len(files) == 4
    assert said == [
        f"could not write {name}.parquet (TypeError: no such column); the search continues"
    ]


@pytest.mark.parametrize("name", ["results", "metrics"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_what_a_disk_refuses_is_raised(
    name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, "refused")

    plan, found = made(tmp_path)
    monkeypatch.setattr(result_files, f"write_{name}", refused)
    with pytest.raises(OSError, match="refused"):
        write_files(plan, found, OnlyShown(lambda line: None))


def test_the_importance_of_parameters_is_computed_once_for_page_and_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(plan: Plan, records: Sequence[TrialRecord]) -> Insight:
        calls.append(len(records))
        return Insight()

    monkeypatch.setattr(findings_module, "insight_of", counted)
    plan, found = made(tmp_path)
    assert calls == []
    answer(plan, found, found.insight)
    write_files(plan, found)
    view = StudyView(plan, found, tmp_path, Manifest.read(plan.request.folder))
    assert view.insight is found.insight
    assert calls == [len(found.records)]
