"""`results.load` and `results.tabulate` on a real, small study, and what they say where there is none."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from meanflow_tune import results
from meanflow_tune.plan import confirm
from meanflow_tune.results import ResultsError
from meanflow_tune.results.frames import METRICS, TRIALS
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.store.trials import read_records
from tests.support.manifests import manifest
from tests.support.paths import ROOT
from tests.support.results.tables import write_tables
from tests.support.studies import NAME, allow, make_ledger, run_all

SEED = 7


def searched(folder: Path) -> Path:
    """A finished search in a folder, with a confirmation of its baselines on one seed."""
    run_all(make_ledger(folder))
    manifest(study=NAME, objective="gap@1", seed=SEED).write(folder)
    storage = open_storage(folder / JOURNAL_NAME, allow)
    configs = {r.number: r.config for r in read_records(storage, NAME, folder)}
    (seed,) = confirm.fresh_seeds(SEED, 1)

    def again(trial: Any) -> dict[str, Any]:
        number = trial.suggest_int("candidate", 0, 10)
        return configs[number] | {"seed": trial.suggest_int("seed", 0, confirm.SEED_LIMIT)}

    confirming = make_ledger(
        folder / "confirm",
        storage,
        study_name=f"{NAME}/confirm",
        suggest=again,
        baselines={f"trial {n}, seed {seed}": {"candidate": n, "seed": seed} for n in (0, 1)},
        rungs=None,
        sampler="random",
        total=2,
    )
    run_all(confirming)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_it_loads_the_files_and_needs_nothing_else(tmp_path: Path) -> None:
    trials, metrics = write_tables(tmp_path)
    for other in (tmp_path / "trials", tmp_path / "confirm"):
        other.rename(tmp_path.parent / f"{tmp_path.name}-{other.name}")
    study = results.load(str(tmp_path))
    assert study.folder == tmp_path
    pd.testing.assert_frame_equal(study.trials, pd.read_parquet(trials))
    pd.testing.assert_frame_equal(study.metrics, pd.read_parquet(metrics))


def test_tables_are_made_from_the_study_without_a_change_to_it(tmp_path: Path) -> None:
    folder = searched(tmp_path / NAME)
    before = contents(folder)
    study = results.tabulate(folder)
    assert contents(folder) == before
    kinds = study.trials.groupby("kind")["number"].nunique().to_dict()
    assert kinds == {"trial": 8, "confirmation": 2}
    fresh = study.metrics[study.metrics["kind"] == "confirmed"]
    assert set(fresh["candidate"]) == {0, 1}
    own = study.trials[study.trials["is_last"] & study.trials["value"].notna()]
    told = study.metrics.query("metric == 'objective.gap@1' and is_last and kind != 'confirmed'")
    assert told["value"].tolist() == own["value"].tolist()


def test_a_study_of_an_earlier_revision_is_read_from_its_journal(tmp_path: Path) -> None:
    folder = searched(tmp_path / NAME)
    tables = results.tabulate(folder)
    tables.trials.drop(columns="kind").to_parquet(folder / TRIALS, index=False)
    study = results.load(folder)
    pd.testing.assert_frame_equal(study.trials, tables.trials)
    pd.testing.assert_frame_equal(study.metrics, tables.metrics)
    assert not (folder / METRICS).exists()


def one_line(error: pytest.ExceptionInfo[ResultsError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text
    return text


def test_no_study_there(tmp_path: Path) -> None:
    manifest(study="known").write(tmp_path / "known")
    with pytest.raises(ResultsError) as error:
        results.load(tmp_path / "unknown")
    assert one_line(error) == f"{tmp_path / 'unknown'} does not exist; known: {tmp_path / 'known'}"
    with pytest.raises(ResultsError) as error:
        results.load(tmp_path)
    assert one_line(error) == f"{tmp_path} holds no study; known: {tmp_path / 'known'}"
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(ResultsError) as error:
        results.tabulate(tmp_path / "a" / "b")
    assert one_line(error).endswith("b holds no study; none is near it")


def test_no_results_yet(tmp_path: Path) -> None:
    folder = tmp_path / NAME
    ledger = make_ledger(folder)
    assert ledger.next() is not None
    manifest(study=NAME, objective="gap@1", seed=SEED).write(folder)
    with pytest.raises(ResultsError) as error:
        results.load(folder)
    text = one_line(error)
    assert f"{folder} has no results.parquet yet" in text
    assert f"results.tabulate('{folder}')" in text
    running = results.tabulate(folder)
    assert running.trials["status"].tolist() == ["running"]
    assert len(running.metrics) == 0


def test_an_earlier_revision_whose_journal_is_gone(tmp_path: Path) -> None:
    trials, metrics = write_tables(tmp_path)
    metrics.unlink()
    manifest(study=NAME, objective="gap@1", seed=SEED).write(tmp_path)
    with pytest.raises(ResultsError) as error:
        results.load(tmp_path)
    text = one_line(error)
    assert "has no metrics.parquet, which earlier revisions did not write" in text
    assert f"there is no study at {tmp_path / JOURNAL_NAME}" in text
    assert "run the command of the search again" in text
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ResultsError, match="is not a readable manifest"):
        results.load(tmp_path)
    assert trials.exists()


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    _, metrics = write_tables(tmp_path)
    metrics.write_text("torn")
    with pytest.raises(ResultsError) as error:
        results.load(tmp_path)
    assert f"{metrics} cannot be read (" in one_line(error)


def test_the_import_is_light() -> None:
    code = (
        "import sys; from meanflow_tune import results; "
        "print(*{'pandas', 'numpy', 'pyarrow', 'torch', 'optuna', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
