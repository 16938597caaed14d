"""--on-end: what the command finds, and that nothing it does changes how a search ends."""

import logging
import shlex
import sys
import time
from pathlib import Path

import pytest

from meanflow_tune.driver import tune_command
from meanflow_tune.driver.handling.on_end import End, environment, reporting_end, run_command
from meanflow_tune.plan.request import EXIT_IN_USE, EXIT_INTERRUPTED, SearchRequest, UserError
from tests.support.manifests import manifest
from tests.support.studies import NAME, make_ledger, run_all


def request(storage: Path, command: str | None = None) -> SearchRequest:
    return SearchRequest(study=NAME, storage=storage, on_end=command)


def test_the_command_finds_the_best_trial(tmp_path: Path) -> None:
    folder = tmp_path / NAME
    ledger = make_ledger(folder)
    run_all(ledger)
    manifest(study=NAME, objective="gap@1").write(folder)
    (folder / "summary.txt").write_text("the answer")
    found = environment(request(tmp_path), End(0))
    best = min((r for r in ledger.records() if r.status == "completed"), key=lambda r: r.values)
    assert found["MEANFLOW_TUNE_STATUS"] == "completed"
    assert found["MEANFLOW_TUNE_BEST_TRIAL"] == str(best.number)
    assert float(found["MEANFLOW_TUNE_BEST_VALUE"]) == best.value
    assert found["MEANFLOW_TUNE_TRIALS"] == "8"
    assert Path(found["MEANFLOW_TUNE_SUMMARY"]).read_text() == "the answer"


def test_without_a_study_every_variable_is_there(tmp_path: Path) -> None:
    found = environment(request(tmp_path), End(2, "a\nb"))
    assert found["MEANFLOW_TUNE_STATUS"] == "error"
    assert found["MEANFLOW_TUNE_ERROR"] == "a b"
    assert found["MEANFLOW_TUNE_BEST_VALUE"] == ""
    assert Path(found["MEANFLOW_TUNE_SUMMARY"]).read_text() == ""


def test_a_variable_reaches_a_shell_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_command(f'printf %s "$WHAT" > {shlex.quote(str(out))}', {"WHAT": "a 'b' $c"})
    assert out.read_text() == "a 'b' $c"


@pytest.mark.parametrize("command", ["exit 3", "kill -9 $$", "no-such-command-at-all", "echo '"])
def test_a_failure_is_one_note(command: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run_command(command, {})
    assert len(caplog.records) == 1
    assert "--on-end ended with status" in caplog.text


def test_a_command_that_hangs_is_killed_with_its_children(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alive = tmp_path / "alive"
    code = f"import time,pathlib; time.sleep(3); pathlib.Path({str(alive)!r}).touch()"
    began = time.monotonic()
    run_command(f"{shlex.join([sys.executable, '-c', code])} & wait", {}, limit=0.5)
    assert time.monotonic() - began < 2.5
    assert "did not end within" in caplog.text
    time.sleep(3.5)
    assert not alive.exists()


def test_it_runs_once_however_the_search_ends(tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = request(tmp_path, f'echo "$MEANFLOW_TUNE_STATUS $MEANFLOW_TUNE_EXIT_STATUS" >> {out}')
    with reporting_end(asked) as end:
        end.status = EXIT_INTERRUPTED
    for error in (UserError("in use", EXIT_IN_USE), KeyboardInterrupt(), ZeroDivisionError()):
        with pytest.raises(type(error)), reporting_end(asked):
            raise error
    assert out.read_text().splitlines() == [
        f"interrupted {EXIT_INTERRUPTED}",
        f"error {EXIT_IN_USE}",
        f"interrupted {EXIT_INTERRUPTED}",
        "error 1",
    ]


def test_the_command_line_runs_it_after_an_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--resume", "must", "--study", "none", "--storage", str(tmp_path / "runs")]
    command = f'echo "$MEANFLOW_TUNE_ERROR" > {out}; exit 9'
    assert tune_command.main([*words, "--space", "eight_gaussians", "--on-end", command]) == 2
    assert "there is no study none" in out.read_text()
