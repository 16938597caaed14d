"""A driver whose study is in PostgreSQL: what is refused before anything starts, and an outage."""

import time
from pathlib import Path

import pytest

from meanflow_tune.driver.driver import Driver, run
from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import SearchRequest, UserError
from meanflow_tune.records import Outcome, Report
from meanflow_tune.report.live import View
from meanflow_tune.search.errors import LeaseLost
from meanflow_tune.search.store.database_lease import TABLE, acquire_lease
from tests.support.paths import TINY_SPACE
from tests.support.servers.postgresql import PASSWORD, PostgresServer


def request(storage: Path, url: str, **changes: object) -> SearchRequest:
    given = {
        "space": str(TINY_SPACE),
        "study": "s",
        "trials": 4,
        "storage": storage,
        "study_storage": url,
        "sampler": "random",
        "scheduler": "none",
    }
    return SearchRequest(**given | changes)


def refused(given: SearchRequest) -> UserError:
    with pytest.raises(UserError) as caught:
        run(given, "again", quiet=True)
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    return caught.value


def test_a_server_that_is_down_is_refused_with_5(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.new_url()
    with postgres.down():
        begun = time.monotonic()
        error = refused(request(tmp_path, url))
        assert time.monotonic() - begun < 10
    assert error.status == 5
    assert str(error).startswith("--study-storage: the database postgresql://***@127.0.0.1")
    assert "start it, or correct the URL" in str(error)
    assert not (tmp_path / "s").exists()


def test_a_login_that_is_refused_ends_with_2(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_url().replace(PASSWORD, f"{PASSWORD}x")
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    error = refused(request(tmp_path, url))
    assert error.status == 2
    assert str(error).startswith("OPTUNA_STORAGE: the server of the database")


def test_one_database_for_optuna_and_mlflow_is_refused(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Both would write their version into its table alembic_version."""
    url = postgres.new_url()
    error = refused(request(tmp_path, url, tracking_uri=url.replace("sql://", "sql+psycopg://")))
    assert error.status == 2
    assert "give each a database" in str(error)


def test_a_driver_on_a_host_with_another_folder_is_refused(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.new_url()
    with acquire_lease(tmp_path / "one" / "s", "s", url):
        error = refused(request(tmp_path / "other", url))
    assert error.status == 4
    assert "is in use by process" in str(error)


def test_a_driver_waits_for_its_server_and_says_so(
    postgres: PostgresServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(request(tmp_path, postgres.new_url()))
    database = str(plan.request.study_storage).rpartition("/")[2]
    with acquire_lease(tmp_path / "s", "s", plan.request.study_storage) as lease:
        driver = Driver(plan, lease, View(quiet=True), "again", verbose=False)
        driver.write_policy._pause = 0.05
        driver.open_study()
        driver.check_manifest()
        ledger = driver.make_ledger()
        job = ledger.next()
        assert job is not None
        report = Report(
            images=6400, metrics={"teacher_gap@1": 0.5, "teacher_gap@2": 0.5}, cost={}, time=0.0
        )
        postgres.stop("immediate")
        driver.write_policy._sleep = lambda seconds: postgres.start()
        ledger.record(job.number, report)
        driver.write_policy._sleep = time.sleep
        ledger.finish(job.number, Outcome("completed"))
        said = capsys.readouterr()
        assert "does not answer" in said.out + said.err
        assert "answers again" in said.out + said.err
        assert [record.status for record in ledger.records()] == ["completed"]
        # Another driver takes over while this one is suspended.
        postgres.query(f"UPDATE {TABLE} SET token = 'another'", database)
        with pytest.raises(LeaseLost):
            ledger.next()
