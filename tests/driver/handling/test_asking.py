"""Commands to a study from another terminal: what they refuse, what they leave, and what they print."""

import json
from pathlib import Path

import pytest

from meanflow_tune.driver.tune_command import main
from meanflow_tune.formats import FORMAT
from meanflow_tune.plan.request import EXIT_OK, EXIT_UNUSABLE, EXIT_USAGE
from meanflow_tune.search.store.lease import Lease, is_held
from meanflow_tune.search.store.storage import JOURNAL_NAME
from meanflow_tune.search.study.inbox import Inbox
from tests.support.manifests import manifest
from tests.support.studies import NAME, make_ledger, run_job


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a study of one completed and one running trial, looked at from another folder."""
    folder = tmp_path / "runs" / NAME
    ledger = make_ledger(folder)
    job = ledger.next()
    assert job is not None
    run_job(ledger, job)
    assert ledger.next() is not None
    manifest(study=NAME, space="second_order", trials=8, overrides=()).write(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for name in ("OPTUNA_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "runs"


def tune(storage: Path, *words: str) -> int:
    return main([*words, "--study", NAME, "--storage", str(storage)])


def test_a_stop_is_left_for_the_driver_once(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (storage / NAME / JOURNAL_NAME).read_bytes()
    assert tune(storage, "--stop-trial", "1") == EXIT_OK
    assert tune(storage, "--stop-trial", "1", "--stop-trial", "1") == EXIT_OK
    (request,) = Inbox(storage / NAME).waiting()
    assert (request.kind, request.trial) == ("stop", 1)
    shown = capsys.readouterr().out
    assert (
        "trial 1 (running) will end as pruned, stopped by the user: when the search is next"
        in shown
    )
    assert "already asked for" in shown
    assert (storage / NAME / JOURNAL_NAME).read_bytes() == before, "only a driver writes the study"


def test_a_running_driver_is_named(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_held(storage / NAME)
    with Lease.acquire(storage / NAME):
        assert is_held(storage / NAME)
        assert tune(storage, "--stop-trial", "1") == EXIT_OK
    assert "picks it up within seconds" in capsys.readouterr().out
    assert not is_held(storage / NAME)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stop-trial", "0"], "--stop-trial 0: it has already ended (completed)"),
        (
            ["--stop-trial", "9"],
            "--stop-trial 9: there is no such trial; the study has trials 0 to 1",
        ),
        (["--stop-trial", "1", "--stop-trial", "9"], "--stop-trial 9"),
        (["--enqueue", "none.json"], "--enqueue none.json: No such file"),
    ],
)
def test_mistakes_leave_no_request(
    storage: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert tune(storage, *words) == EXIT_USAGE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert Inbox(storage / NAME).waiting() == []


@pytest.mark.parametrize("words", [["--stop-trial", "1"], ["--enqueue", "x.json"], ["--dashboard"]])
def test_a_study_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main([*words, "--study", "none", "--storage", str(tmp_path)]) == EXIT_USAGE
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("words", [["--stop-trial", "1"], ["--status"], ["--dashboard"]])
def test_a_study_of_a_newer_version_is_refused_by_name(
    storage: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    path = storage / NAME / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FORMAT + 1}))
    assert tune(storage, *words) in (EXIT_USAGE, EXIT_UNUSABLE)
    words_of_it = f"made by a newer version (format {FORMAT + 1}; this one reads up to {FORMAT})"
    assert words_of_it in capsys.readouterr().err


def test_trials_are_enqueued_and_shown_as_waiting(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = Path("wanted.json")  # relative to the folder that the command is run from
    wanted.write_text(json.dumps([{"weighting/power": 0.5}] * 8))
    assert tune(storage, "--enqueue", str(wanted)) == EXIT_OK
    assert "--trials 10 or more" in capsys.readouterr().out
    assert len(Inbox(storage / NAME).waiting()) == 8
    assert tune(storage, "--status") == EXIT_OK
    assert "asked for: enqueue a trial with weighting/power 0.5" in capsys.readouterr().out
