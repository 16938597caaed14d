"""The command `report`: what it writes, what it refuses in one line, and that it watches to the end."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from meanflow_tune.driver import report_command
from meanflow_tune.driver.report_command import main
from meanflow_tune.driver.sample_command import Interruption
from meanflow_tune.plan.request import EXIT_INTERRUPTED, EXIT_OK, EXIT_UNUSABLE, EXIT_USAGE
from meanflow_tune.report.page import page_files
from meanflow_tune.search.store.holder import LEASE_NAME, LeaseState
from meanflow_tune.search.store.manifest import Manifest
from tests.support.page.html_check import faults_of
from tests.support.page.stored_page_study import store_study


def test_the_only_study_is_reported_into_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store_study(tmp_path, "toy")
    assert main(["--storage", str(tmp_path)]) == EXIT_OK
    page = (folder / "report.html").read_text()
    assert faults_of(page) == []
    assert "<title>toy · report</title>" in page
    assert capsys.readouterr().out == f"report of toy: {folder / 'report.html'}\n"


def test_two_studies_are_compared(tmp_path: Path) -> None:
    store_study(tmp_path, "first")
    store_study(tmp_path, "second", seed=1)
    out = tmp_path / "pages" / "both.html"
    names = ["--study", "first", "--study", "second"]
    assert main(["--storage", str(tmp_path), *names, "--out", str(out)]) == EXIT_OK
    page = out.read_text()
    assert faults_of(page) == []
    assert "second against first" in page
    assert 'id="comparison"' in page


@pytest.mark.parametrize(
    "words, status, said",
    [
        (["--study", "gone"], EXIT_USAGE, "--study gone: there is no study in"),
        (["--study", "toy", "--study", "toy"], EXIT_USAGE, "--study toy: given twice"),
        (["--out", "page.txt"], EXIT_USAGE, "must end in .html"),
        (
            ["--storage", "/nowhere/at/all"],
            EXIT_USAGE,
            "--storage /nowhere/at/all: there is no such",
        ),
        (["--out", "/proc/none/page.html"], EXIT_UNUSABLE, "cannot be written"),
        (["--figures", "/proc/none"], EXIT_UNUSABLE, "--figures /proc/none: cannot be written"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    status: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store_study(tmp_path, "toy")
    assert main(["--storage", str(tmp_path), *words], prog="report.py") == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("report.py: ")
    assert said in line


def test_several_studies_need_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    assert main(["--storage", str(tmp_path)]) == EXIT_USAGE
    assert "holds a, b" in capsys.readouterr().err


def test_a_damaged_manifest_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "manifest.json").write_text("{")
    assert main(["--storage", str(tmp_path)]) == EXIT_UNUSABLE
    assert "not a readable manifest" in capsys.readouterr().err


def hold_lease(folder: Path, pid: int | None, heartbeat: float) -> None:
    state = LeaseState("host", "place", pid, 1, 1, heartbeat)
    (folder / LEASE_NAME).write_text(json.dumps(asdict(state)))


def test_a_watch_writes_again_and_ends_with_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store_study(tmp_path, "toy")
    hold_lease(folder, 1, 4e9)
    written: list[bool] = []
    real = page_files.write_page

    def write_page(path: Path, *given: object, **named: object) -> object:
        made = real(path, *given, **named)  # type: ignore[arg-type]
        written.append('data-reload="' in path.read_text())
        return made

    waits: list[float] = []

    def wait(seconds: float, check: Callable[[], None]) -> None:
        waits.append(seconds)
        if len(waits) == 2:  # at first nothing has changed
            hold_lease(folder, None, 4e9)

    monkeypatch.setattr(page_files, "write_page", write_page)
    monkeypatch.setattr(report_command, "_wait", wait)
    assert main(["--storage", str(tmp_path), "--watch", "--every", "7"]) == EXIT_OK
    assert waits == [7, 7]
    assert written == [True, False]
    assert "no search is running; the report is complete" in capsys.readouterr().out


def test_a_watch_survives_a_moment_without_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store_study(tmp_path, "toy")
    hold_lease(folder, 1, 4e9)
    manifest = (folder / "manifest.json").read_text()
    waits: list[float] = []

    def wait(seconds: float, check: Callable[[], None]) -> None:
        waits.append(seconds)
        (folder / "manifest.json").write_text("{" if len(waits) < 3 else manifest)
        if len(waits) == 3:
            hold_lease(folder, None, 4e9)

    monkeypatch.setattr(report_command, "_wait", wait)
    assert main(["--storage", str(tmp_path), "--watch"]) == EXIT_OK
    assert capsys.readouterr().err.count("Trying again.") == 1


def test_ctrl_c_leaves_the_last_whole_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store_study(tmp_path, "toy")
    (folder / "report.html").write_text("old")
    interruption = Interruption()
    interruption.happened = True
    assert main(["--storage", str(tmp_path)], interruption=interruption) == EXIT_INTERRUPTED
    assert (folder / "report.html").read_text() == "old"
    assert "the last whole report" in capsys.readouterr().err


def test_a_study_whose_space_is_gone_is_reported_with_a_note(tmp_path: Path) -> None:
    folder = store_study(tmp_path, "toy")
    manifest = Manifest.read(folder)
    assert manifest is not None
    manifest.model_copy(update={"space": "/gone/<space>.py"}).write(folder)
    assert main(["--storage", str(tmp_path)]) == EXIT_OK
    page = (folder / "report.html").read_text()
    assert faults_of(page) == []
    assert "The search space /gone/&lt;space&gt;.py cannot be loaded" in page
