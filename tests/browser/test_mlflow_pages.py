"""MLflow's pages of a real search, in Chromium: what a user sees when following the printed link."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from meanflow_tune.files import mlflow_uri
from tests.support.paths import ROOT, TINY_SPACE
from tests.support.ports import free_ports

BROWSER = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None and "CI" not in os.environ, reason="no Chromium here"),
]
PATIENCE = 120.0
# MLflow's own: it asks for a user where logins are off, and its tables observe their own size.
OWN_ERRORS = re.compile(r"users/current|ResizeObserver loop|status of 404")
SEARCH = (
    *("--trials", "6", "--reduction", "2", "--confirm-seeds", "1", "--study", "seen"),
    *("--set", "budget.images=3840", "--set", "teacher.budget.images=2560"),
)


@dataclass(frozen=True)
class Searched:
    """link: as printed, without its server; the client sees what the pages show."""

    storage: Path
    link: str
    api: MlflowClient

    def runs(self) -> dict[str, str]:
        """Name -> id."""
        experiment = self.api.get_experiment_by_name("seen")
        assert experiment is not None
        found = self.api.search_runs([experiment.experiment_id])
        return {str(run.info.run_name): run.info.run_id for run in found}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    storage = tmp_path_factory.mktemp("runs")
    command = [sys.executable, str(ROOT / "scripts" / "tune.py"), "--space", str(TINY_SPACE)]
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [*command, *SEARCH, "--storage", str(storage)],
        env=kept | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"then open http://127\.0\.0\.1:5000(\S+)", done.stdout)
    assert found is not None, done.stdout
    return Searched(storage, found[1], MlflowClient(mlflow_uri(storage)))


@pytest.fixture(scope="module")
def server(searched: Searched) -> Iterator[str]:
    port = free_ports(1)
    uri = mlflow_uri(searched.storage)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--workers", "1"]
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (searched.storage / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
    try:
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=1):
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (searched.storage / "ui.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.fixture(scope="module")
def page(server: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_context(
            base_url=server, viewport={"width": 1900, "height": 1000}
        ).new_page()
        page.set_default_timeout(30_000)
        yield page
        browser.close()


@pytest.fixture
def errors(page: Any) -> Iterator[list[str]]:
    """Errors of the page's console that are not MLflow's own; none may be left."""
    found: list[str] = []

    def hear(message: Any) -> None:
        if message.type == "error" and not OWN_ERRORS.search(message.text):
            found.append(message.text)

    page.on("console", hear)
    yield found
    page.remove_listener("console", hear)
    assert found == []


def test_the_printed_link_opens_the_runs_sorted_by_the_objective(
    searched: Searched, page: Any, errors: list[str]
) -> None:
    page.goto(searched.link)
    header = page.get_by_role("columnheader")
    for column in ("objective", "verdict", "state", "kind", "Models"):
        header.filter(has_text=column).first.wait_for()
    page.get_by_text("trial 00000 backward").first.wait_for()
    column = (
        '.ag-center-cols-container [col-id="metrics.`objective`"], [col-id*="objective"].ag-cell'
    )
    shown = [text.strip() for text in page.locator(column).all_inner_texts()]
    values = [float(text.rstrip("…. ")) for text in shown if re.match(r"\d", text)]
    assert len(values) >= 6
    assert values == sorted(values), "the best run is the first one"
    assert page.get_by_text("reference", exact=True).count() >= 1


def test_the_search_describes_itself(searched: Searched, page: Any, errors: list[str]) -> None:
    page.goto(f"{searched.link.partition('?')[0]}/{searched.runs()['seen']}")
    page.get_by_text("Show that the whole path works.").first.wait_for()
    page.get_by_text("best/objective").first.wait_for()
    page.get_by_role("tab", name="Artifacts").click()
    for name in ("best.json", "results.parquet", "metrics.parquet"):
        page.get_by_text(name).first.wait_for()


def test_five_trials_compare(searched: Searched, page: Any, errors: list[str]) -> None:
    trials = [run for name, run in searched.runs().items() if name.startswith("trial")][:5]
    assert len(trials) == 5
    experiment = re.search(r"experiments/(\d+)", searched.link)
    assert experiment is not None
    chosen = ",".join(f'"{run}"' for run in trials)
    page.goto(f'/#/compare-runs?runs=[{chosen}]&experiments=["{experiment[1]}"]')
    page.get_by_text("Comparing 5 Runs from 1 Experiment").first.wait_for()
    page.get_by_text("objective").first.wait_for()


def test_charts_and_samples_of_trials_stand_side_by_side(
    searched: Searched, page: Any, errors: list[str]
) -> None:
    def is_picture(response: Any) -> bool:
        return "samples_nfe_1" in response.url and "get-artifact" in response.url

    with page.expect_response(is_picture) as picture:
        page.goto(f"{searched.link}&compareRunsMode=CHART")
        for chart in ("objective", "teacher_gap/nfe_1"):
            page.get_by_text(chart, exact=True).first.wait_for()
    assert picture.value.status == 200


def test_the_registry_has_the_winner(searched: Searched, page: Any, errors: list[str]) -> None:
    (model,) = searched.api.search_registered_models()
    assert model.name.startswith("eight_gaussians-")
    page.goto(f"/#/models/{model.name}")
    page.get_by_text(model.name).first.wait_for()
    for alias in ("candidate", "baseline"):
        page.get_by_text(re.compile(rf"@\s*{alias}")).first.wait_for()
    page.get_by_text("Version 1").first.wait_for()
