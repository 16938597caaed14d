"""--delete-study: what goes, what stays, who may, and what an interruption leaves."""

import io
import os
from pathlib import Path

import optuna
import pytest

from meanflow_tune.driver.handling import deletion
from meanflow_tune.driver.tune_command import main
from meanflow_tune.plan.request import EXIT_IN_USE, EXIT_OK, EXIT_UNUSABLE, EXIT_USAGE
from meanflow_tune.search.store.lease import Lease
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.tracking.events import Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.mlflow_store import connect
from meanflow_tune.tracking.outbox import Outbox
from meanflow_tune.tracking.replay import Replayer
from tests.support.manifests import manifest
from tests.support.ports import free_ports
from tests.support.studies import NAME, allow, make_ledger, run_all

OTHER = "toy2"


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a study, another one whose name begins like it, and teachers."""
    for name in ("OPTUNA_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for name in (NAME, OTHER):
        run_all(make_ledger(tmp_path / name, study_name=name))
        manifest(study=name).write(tmp_path / name)
    (tmp_path / "teachers").mkdir()
    (tmp_path / "teachers" / "one.pt").touch()
    return tmp_path


def delete(storage: Path, *words: str, study: str = NAME) -> int:
    return main(["--delete-study", "--study", study, "--storage", str(storage), *words])


def track(storage: Path, name: str) -> None:
    outbox = Outbox(storage / name)
    Tracker(outbox, name).search_started({"goal": "see"})
    with Replayer(outbox, MlflowSink(storage)) as replayer:
        assert replayer.drain(120.0) == 0


def test_a_study_goes_and_its_neighbours_stay(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert delete(storage, "--yes") == EXIT_OK
    left = {path.name for path in storage.iterdir()}
    assert left == {OTHER, "teachers"}
    shown = capsys.readouterr().out
    assert "8 trials" in shown
    assert "Teachers stay" in shown
    assert "MLflow has no experiment of it" in shown
    assert delete(storage, "--yes") == EXIT_USAGE
    assert "there is no study toy" in capsys.readouterr().err


def test_without_a_terminal_it_is_refused(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert delete(storage) == EXIT_USAGE
    assert "add --yes" in capsys.readouterr().err
    assert (storage / NAME / "study.journal").exists()


@pytest.mark.parametrize(
    ("answer", "gone"), [("y", True), ("", False), ("no", False), ("Yes", True)]
)
def test_the_answer_counts(
    storage: Path, monkeypatch: pytest.MonkeyPatch, answer: str, gone: bool
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
    assert delete(storage) == EXIT_OK
    assert (storage / NAME).exists() is not gone
    if not gone:
        Lease.acquire(storage / NAME).release()


def test_a_running_study_is_refused(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Lease.acquire(storage / NAME):
        assert delete(storage, "--yes") == EXIT_IN_USE
    assert "is in use by process" in capsys.readouterr().err
    assert (storage / NAME / "study.journal").exists()


def test_an_interrupted_deletion_is_repeated(
    storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(deletion.shutil, "rmtree", full)
        assert delete(storage, "--yes") == EXIT_UNUSABLE
    assert "the same command deletes the rest" in capsys.readouterr().err
    assert not (storage / NAME).exists(), "no half of a study is left to be resumed"
    assert delete(storage, "--yes") == EXIT_OK
    assert {path.name for path in storage.iterdir()} == {OTHER, "teachers"}


def test_of_a_database_only_its_studies_go(storage: Path) -> None:
    url = f"sqlite:///{storage / 'all.db'}"
    names = (NAME, f"{NAME}/confirm", f"{NAME}@2", OTHER, f"{NAME}x/confirm")
    for name in names:
        optuna.create_study(study_name=name, storage=url)
    manifest(study=NAME, study_storage=url).write(storage / NAME)
    assert delete(storage, "--yes") == EXIT_OK
    kept = optuna.get_all_study_names(open_storage(url, allow))
    assert set(kept) == {OTHER, f"{NAME}x/confirm"}


def test_a_database_that_the_study_is_not_in_is_left_alone(storage: Path) -> None:
    """OPTUNA_STORAGE may name one in which another folder's study has the same name."""
    url = f"sqlite:///{storage / 'all.db'}"
    optuna.create_study(study_name=NAME, storage=url)
    assert delete(storage, "--yes", "--study-storage", url) == EXIT_OK
    assert optuna.get_all_study_names(url) == [NAME]


def test_mlflow_without_an_answer_is_refused_unless_it_is_kept(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"http://127.0.0.1:{free_ports(1)}"
    Tracker(Outbox(storage / NAME), NAME).search_started({"goal": "see"})
    assert delete(storage, "--yes", "--tracking-uri", uri) == EXIT_UNUSABLE
    assert "--keep-mlflow" in capsys.readouterr().err
    assert (storage / NAME / "study.journal").exists()
    assert delete(storage, "--yes", "--tracking-uri", uri, "--keep-mlflow") == EXIT_OK
    assert not (storage / NAME).exists()


@pytest.mark.slow
def test_its_experiment_goes_for_good(storage: Path) -> None:
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    for name in (NAME, OTHER):
        track(storage, name)
    client = connect(uri)
    for name in (NAME, OTHER):
        found = client.get_experiment_by_name(name)
        (run,) = client.search_runs([found.experiment_id])
        client.log_text(run.info.run_id, "text", "file.txt")
        client.create_registered_model(f"model of {name}")
        source = f"{run.info.artifact_uri}"
        client.create_model_version(f"model of {name}", source, run_id=run.info.run_id)
    client.delete_run(
        client.create_run(client.get_experiment_by_name(NAME).experiment_id).info.run_id
    )
    assert delete(storage, "--yes") == EXIT_OK
    assert client.get_experiment_by_name(NAME) is None
    assert [model.name for model in client.search_registered_models()] == [f"model of {OTHER}"]
    assert os.listdir(storage / "artifacts") == [OTHER]
    kept = client.get_experiment_by_name(OTHER)
    assert len(client.search_runs([kept.experiment_id])) == 1
    assert client.create_experiment(NAME), "the name is free again"
