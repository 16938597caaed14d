"""Text from outside is never markup, and steers no terminal, wherever it is shown."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.plan.findings import find
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Outcome
from meanflow_tune.report import live, status
from meanflow_tune.report.live import View
from meanflow_tune.report.safe_console import SafeConsole, make_console
from meanflow_tune.report.state.status_file import STATUS_NAME
from meanflow_tune.report.summary import show, show_places
from tests.support.confirmation import GAP, SEARCH, SEARCH_SEED, SPACE
from tests.support.confirmation import record as make_record
from tests.support.paths import PACKAGE
from tests.support.rungs import make_rungs
from tests.support.studies import make_ledger

BRACKETS = "[/usr/lib/libgloo.so] [Errno 28] [/] [bold"
HOSTILE = f"{BRACKETS} \x1b[2J\x1b]0;title\x07\r\n\x08\u202eev 模🎉 {'x' * 300} \udcff"
FAULT = dict.fromkeys(("slot", "host", "trial", "cause", "action"), HOSTILE) | {"time": 1e300}
SLOT = dict.fromkeys(("slot", "state", "trial", "waits_for"), HOSTILE)
GPU = {"name": HOSTILE, "percent": HOSTILE, "used": HOSTILE, "total": 1e300}
HOSTS = [{"host": HOSTILE, "slots": [SLOT, 3], "gpus": [GPU, None]}, [], {"slots": {}, "gpus": 1}]
STEERING = ("\x1b[2J", "\x1b]0;", "\x07", "\x08", "\u202e", "\udcff")


def assert_harmless(text: str) -> None:
    flat = " ".join(text.split())
    assert BRACKETS in flat
    assert not [each for each in STEERING if each in text]


@pytest.mark.parametrize("width", [110, 80, 24])
def test_a_summary_of_hostile_records(tmp_path: Path, width: int) -> None:
    request = SearchRequest(study="toy", trials=8, storage=tmp_path, seed=SEARCH_SEED)
    made = Plan(request, SPACE, GAP, lambda trial: {}, (), "", make_rungs())
    hostile = [replace(trial, baseline=trial.baseline and HOSTILE) for trial in SEARCH]
    ended = replace(make_record(9, 0.5), status="failed", values=(), value=None, reason=HOSTILE)
    file = io.StringIO()
    console = make_console(file, width)
    show(console, made, find(made, [*hostile, ended], []))
    show_places(console, made.request, [Path(f"/{HOSTILE}")], f"tune {HOSTILE}")
    text = file.getvalue()
    if width == 110:
        assert_harmless(text)
    assert not [each for each in STEERING if each in text]


def test_a_live_view_of_hostile_state(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True, width=120, height=60)
    monkeypatch.setattr(live, "make_console", lambda: console)
    keys = ("study", "best", "teacher", "forecast", "rungs", "front")
    with View() as view:
        view.state = dict.fromkeys(keys, HOSTILE) | {
            "total": 3,
            "done": {HOSTILE: 1},
            "warnings": [HOSTILE],
            "picture": [HOSTILE],
            "slots": HOSTS,
            "running": [dict.fromkeys(("name", "what", "phase", "last"), HOSTILE)],
        }
        view.event(HOSTILE, "failed")
        view.error(HOSTILE)
    assert_harmless(file.getvalue())
    assert "could not" not in file.getvalue() + capsys.readouterr().err


def test_plain_events_of_hostile_text(capsys: pytest.CaptureFixture[str]) -> None:
    view = View()
    view.event(HOSTILE)
    view.error(HOSTILE)
    shown = capsys.readouterr()
    assert_harmless(shown.out)
    assert_harmless(shown.err)
    assert len(shown.out.splitlines()) == 1


def begin(folder: Path) -> SearchRequest:
    ledger = make_ledger(folder / "toy", total=8, baselines={HOSTILE[:40]: {"x": 0.5}})
    for _ in range(2):
        job = ledger.next()
        assert job is not None
        ledger.finish(job.number, Outcome("failed", HOSTILE, deterministic=True))
    return SearchRequest(study="toy", storage=folder)


WRONG: dict[str, Any] = {
    "not JSON": "{",
    "not text": b"\xff\xfe\x00",
    "a list": "[]",
    "nested": "[" * 100_000,
    "of other kinds": json.dumps(
        {"time": "now", "total": [], "running": [1, {"name": 3, "images": "x"}], "warnings": 4}
    ),
    "hostile": json.dumps(
        dict.fromkeys(("best", "teacher", "forecast", "rungs", "front"), HOSTILE)
        | {"running": [dict.fromkeys(("name", "what", "phase", "last"), HOSTILE)]}
        | {"warnings": [HOSTILE], "picture": [HOSTILE], "time": 1e300, "total": 1e300}
        | {"waiting": [HOSTILE], "faults": {"total": 1, "last": [FAULT]}, "slots": HOSTS}
    ),
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG.keys())
def test_status_survives_any_study_and_any_file(
    content: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = begin(tmp_path)
    path = tmp_path / "toy" / STATUS_NAME
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert status.show_status(request) == 0
    text = capsys.readouterr().out
    assert_harmless(text)
    assert "2 trials" in text
    assert "could not" not in text


@pytest.mark.parametrize("part", ["show_trials", "_show_counts", "standing_lines", "_show_waiting"])
def test_a_part_of_a_status_that_fails_takes_no_other_away(
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("[/no] font")

    request = begin(tmp_path)
    monkeypatch.setattr(status, part, broken)
    assert status.show_status(request) == 0
    text = capsys.readouterr().out
    assert "RuntimeError: [/no] font" in " ".join(text.split())
    assert text.startswith("toy: no driver at work")


def test_no_source_uses_markup() -> None:
    """The console does not read it, so it would be shown as it is."""
    markup = re.compile(r"\[/?(?:bold|dim|italic|red|green|yellow|blue|cyan|magenta)(?: \w+)*\]")
    found = [p for part in ("report", "driver") for p in (PACKAGE / part).rglob("*.py")]
    assert len(found) > 20
    assert not [path for path in found if markup.search(path.read_text())]


@pytest.mark.parametrize(
    ("study", "shown"), [("toy", "2 trials of 8"), ("toy/confirm", "2 trials: ")]
)
def test_the_total_is_that_of_the_search(
    study: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = begin(tmp_path)
    path = tmp_path / "toy" / STATUS_NAME
    path.write_text(json.dumps({"study": study, "total": 8}))
    assert status.show_status(request) == 0
    assert shown in capsys.readouterr().out
