"""The Optuna dashboard on a study: it shows the trials, and as `--dashboard` it cannot write into it."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.search.store.storage import JOURNAL_NAME
from tests.support.needs import needs
from tests.support.paths import ROOT
from tests.support.ports import free_ports
from tests.support.studies import NAME, make_ledger, run_all, run_job

pytestmark = pytest.mark.slow
CHROMIUM = "chromium"


@contextmanager
def served(command: list[str], port: int, log: Path) -> Iterator[str]:
    """The address of a dashboard that a command serves."""
    address = f"http://127.0.0.1:{port}"
    with open(log, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=log.parent)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                call(f"{address}/api/studies")
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def ours(storage: Path, port: int) -> list[str]:
    where = ["--study", NAME, "--storage", str(storage)]
    return [sys.executable, str(ROOT / "scripts/tune.py"), "--dashboard", str(port), *where]


def call(url: str, method: str = "GET", body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(asked, timeout=20) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def status_of(url: str, method: str, body: Any) -> int:
    try:
        call(url, method, body)
    except urllib.error.HTTPError as error:
        return error.code
    return 204


def states(address: str) -> list[str]:
    (study,) = call(f"{address}/api/studies")["study_summaries"]
    found = call(f"{address}/api/studies/{study['study_id']}")
    return [trial["state"] for trial in found["trials"]]


def test_a_resting_study_is_shown_in_a_browser(tmp_path: Path) -> None:
    needs(CHROMIUM, "to open a page")
    from playwright.sync_api import sync_playwright

    run_all(make_ledger(tmp_path / NAME))
    port = free_ports(1)
    with served(ours(tmp_path, port), port, tmp_path / "log") as address:
        found = states(address)
        assert len(found) == 8
        assert "Complete" in found
        assert "Pruned" in found
        (study,) = call(f"{address}/api/studies")["study_summaries"]
        assert study["study_name"] == NAME
        trials = call(f"{address}/api/studies/{study['study_id']}")["trials"]
        values = {trial["number"]: trial.get("values") for trial in trials}
        pruned = [trial for trial in trials if trial["state"] == "Pruned"]
        assert any(trial["intermediate_values"] for trial in pruned)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=f"/usr/bin/{CHROMIUM}", args=["--no-sandbox"]
            )
            page = browser.new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(f"{address}/dashboard/studies/{study['study_id']}")
            page.wait_for_selector(".js-plotly-plot .main-svg", timeout=30_000)
            drawn = page.evaluate(
                "[...document.querySelectorAll('.js-plotly-plot')].flatMap(p => p.data || [])"
                ".flatMap(t => [...(t.y || [])])"
            )
            browser.close()
    best = min(value[0] for value in values.values() if value)
    assert any(isinstance(y, int | float) and abs(y - best) < 1e-6 for y in drawn)
    assert errors == []


def test_no_page_writes_into_the_study_while_a_driver_does(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path / NAME)
    job = ledger.next()
    assert job is not None
    journal, port = tmp_path / NAME / JOURNAL_NAME, free_ports(1)
    with served(ours(tmp_path, port), port, tmp_path / "log") as address:
        assert states(address) == ["Running"]
        before = journal.read_bytes()
        api = f"{address}/api"
        refused = [
            status_of(f"{api}/studies/0/note", "PUT", {"body": "note", "version": 1}),
            status_of(f"{api}/studies/0/0/note", "PUT", {"body": "note", "version": 1}),
            status_of(f"{api}/trials/0/tell", "POST", {"state": "Fail"}),
            status_of(f"{api}/trials/0/user-attrs", "POST", {"user_attrs": {"config": 1}}),
            status_of(f"{api}/studies/0/0/skip", "POST", {}),
            status_of(f"{api}/studies/0/rename", "POST", {"study_name": "other"}),
            status_of(f"{api}/studies/0", "DELETE", None),
            status_of(f"{api}/studies", "POST", {"study_name": "s", "directions": ["minimize"]}),
        ]
        assert all(code >= 400 for code in refused), refused
        assert journal.read_bytes() == before
        run_job(ledger, job)
        for _ in range(3):
            job = ledger.next()
            assert job is not None
            run_job(ledger, job)
        deadline = time.monotonic() + 30
        while len(states(address)) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    run_all(ledger)


def test_on_the_journal_itself_it_writes_past_the_lease(tmp_path: Path) -> None:
    """The reason for --dashboard. Its lines are whole ones, and a driver continues behind them."""
    ledger = make_ledger(tmp_path / NAME)
    job = ledger.next()
    assert job is not None
    journal, port = tmp_path / NAME / JOURNAL_NAME, free_ports(1)
    program = Path(sys.executable).with_name("optuna-dashboard")
    command = [str(program), str(journal), "--host", "127.0.0.1", "--port", str(port)]
    with served(command, port, tmp_path / "log") as address:
        api = f"{address}/api"
        assert status_of(f"{api}/studies/0/note", "PUT", {"body": "note", "version": 1}) == 204
        run_job(ledger, job)  # both write, line by line
        running = ledger.next()
        assert running is not None
        assert status_of(f"{api}/trials/{running.number}/tell", "POST", {"state": "Fail"}) == 204
    run_job(ledger, running)  # ended by somebody else: this ends no search
    assert ledger.record_of(running.number).status == "failed"
    again = make_ledger(tmp_path / NAME)
    run_all(again)
    assert len(again.records()) == 8
