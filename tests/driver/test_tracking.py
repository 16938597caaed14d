"""MLflow from the driver's side: checked before Ray, waited for, and every refusal told."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meanflow_tune.driver import driver
from meanflow_tune.driver.cli import search_request, tune_parser
from meanflow_tune.driver.tracking import RATED_SECONDS, STILL_SECONDS, check_tracking, drain
from meanflow_tune.plan.request import EXIT_UNUSABLE, EXIT_USAGE, SearchRequest, UserError
from meanflow_tune.report.status import show_status
from meanflow_tune.tracking import tracking_uri
from meanflow_tune.tracking.outbox import Event
from meanflow_tune.tracking.replay import Rejected, Replayer, ReplayStatus
from tests.support.drivers.made_up import MadeUp, four_trials, replace_ray
from tests.support.ports import free_ports
from tests.support.servers.listeners import answering, silent
from tests.support.servers.postgresql import PostgresServer

REASON = "[bold] no trial 1 [/bold]"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking_uri, "_ANSWER", 0.3)


class Refusing:
    """Takes everything but reports of trial 1."""

    def apply(self, event: Event) -> None:
        if event.kind == "reported" and event.payload["trial"] == "1":
            raise Rejected(REASON, "ask for it")


def asked(storage: Path, uri: str, **changes: Any) -> SearchRequest:
    return four_trials(storage).model_copy(update={"tracking_uri": uri, **changes})


def no_ray(*_: object, **__: object) -> None:
    raise AssertionError("Ray was started")


@pytest.mark.parametrize("uri", ["./mlruns", "sqlite:////no/such/folder/a.db", "http://"])
def test_an_unusable_uri_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setattr(driver, "make_plan", no_ray)
    with pytest.raises(UserError, match="--tracking-uri") as caught:
        driver.run(asked(tmp_path / "runs", uri), "again")
    assert caught.value.status == EXIT_USAGE
    assert uri in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_database_for_mlflow_that_lets_nobody_in_is_refused(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """Its port is open, which is not enough."""
    url = postgres.new_url()
    assert check_tracking(asked(tmp_path, url)) == ""
    with pytest.raises(UserError) as caught:
        check_tracking(asked(tmp_path, f"{url}-none"))
    said = str(caught.value)
    assert caught.value.status == EXIT_USAGE
    assert said.startswith("--tracking-uri: the server of the database postgresql://***@")
    assert "does not exist); correct the URL, or create the database." in said


def test_the_remedy_for_a_database_server_that_is_down_starts_no_mlflow(tmp_path: Path) -> None:
    port = free_ports(1)
    with pytest.raises(UserError) as caught:
        check_tracking(asked(tmp_path, f"postgresql://me@127.0.0.1:{port}/mlflow"))
    said = str(caught.value)
    assert caught.value.status == EXIT_UNUSABLE
    assert "no database server answers" in said
    assert ". Start it, correct the URI, or leave it out to use " in said


def test_the_storages_own_damaged_database_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database" * 100)
    with pytest.raises(UserError, match="no usable SQLite database"):
        check_tracking(four_trials(tmp_path))


def test_the_variable_is_named_where_it_is_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    request = search_request(tune_parser().parse_args(["--storage", str(tmp_path)]))
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI \./mlruns: "):
        check_tracking(request)


def test_a_silent_server_is_refused_at_the_first_start_and_awaited_by_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_ray(monkeypatch, MadeUp())
    with silent() as port:
        request = asked(tmp_path, f"http://me:secret@127.0.0.1:{port}")
        with pytest.raises(UserError, match="no MLflow server answers") as caught:
            driver.run(request, "again")
        assert caught.value.status == EXIT_UNUSABLE
        assert "secret" not in str(caught.value)
        assert "leave it out to use" in str(caught.value)
        assert not request.folder.exists()
        assert driver.run(four_trials(tmp_path), "again", quiet=True) == 0
        capsys.readouterr()
        assert driver.run(request, "again", quiet=True) == 0
        told = capsys.readouterr().err
        assert "no MLflow server answers" in told
        assert "events are kept and sent as soon as MLflow answers" in told
        with pytest.raises(UserError):
            driver.run(request.model_copy(update={"resume": "fresh"}), "again")


def test_a_stranger_at_the_address_is_refused_by_a_resume_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_ray(monkeypatch, MadeUp())
    assert driver.run(four_trials(tmp_path), "again", quiet=True) == 0
    with answering(200) as port, pytest.raises(UserError, match="is no MLflow server"):
        driver.run(asked(tmp_path, f"http://127.0.0.1:{port}"), "again", quiet=True)


def test_every_refusal_is_told_at_once_in_the_status_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = four_trials(tmp_path)
    replace_ray(monkeypatch, MadeUp())
    monkeypatch.setattr(driver, "MlflowSink", lambda *_, **__: Refusing())
    assert driver.run(request, "again", quiet=True) == 0
    told = capsys.readouterr().err.splitlines()
    count = len([line for line in told if line.startswith("MLflow refused an event (trial 1, ")])
    assert count > 1
    summary = f"{count} events of s refused by MLflow, kept in "
    at_end = next(index for index, line in enumerate(told) if line.startswith(summary))
    assert told[at_end + 1] == f"  {count} x {REASON}; ask for it"
    state = json.loads((request.folder / "status.json").read_text())
    assert state["tracking"] == told[at_end : at_end + 2]
    assert show_status(request) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert summary.strip() in shown
    assert f"{count} x {REASON}; ask for it" in shown
    # A later driver, with nothing left to do, still says it.
    assert driver.run(request, "again", quiet=True) == 0
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if line.startswith(summary)]
    assert not [line for line in told if line.startswith("MLflow refused an event")]


def test_what_waits_for_a_failing_server_is_in_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Down:
        def apply(self, event: Event) -> None:
            raise ConnectionError("http://me:secret@host is down")

    request = four_trials(tmp_path)
    replace_ray(monkeypatch, MadeUp())
    monkeypatch.setattr(driver, "MlflowSink", lambda *_, **__: Down())
    assert driver.run(request, "tune --again", quiet=True) == 0
    told = capsys.readouterr().err
    assert "waiting for MLflow (ConnectionError: http://***@host is down)" in told
    assert "tune --again" in told
    (line,) = json.loads((request.folder / "status.json").read_text())["tracking"]
    assert "MLflow fails since" in line
    assert "events wait for it" in line
    assert "secret" not in told + line


def test_a_search_ends_with_an_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audits: list[str] = []
    replace_ray(monkeypatch, MadeUp())
    monkeypatch.setattr(Replayer, "audit", lambda self: audits.append("audit"))
    assert driver.run(four_trials(tmp_path), "again", quiet=True) == 0
    assert audits == ["audit"]


class Server:
    """A replayer whose server takes `rate` events per second of its own clock, of `left` events.

    error: of the last attempt before; fails: whether further attempts fail as well.
    """

    def __init__(
        self, left: int, rate: float, error: str | None = None, fails: bool = False
    ) -> None:
        self.now, self._left, self._rate = 0.0, left, rate
        self._error, self._fails = error, fails
        self.waits = 0

    def drain(self, timeout: float) -> int:
        self.waits += 1
        self.now += timeout
        return max(0, self._left - int(self.now * self._rate))

    def status(self) -> ReplayStatus:
        failures = int(self._error is not None) + int(self._fails and self.now > 0.0)
        return ReplayStatus(self.drain(0.0), 0, 0, self._error, None, failures=failures)

    def clock(self) -> float:
        return self.now


def drained(server: Server, seconds: float = 60.0) -> tuple[float, str, str]:
    """Seconds waited, what the view was told, and its errors."""
    told: list[str] = []
    errors: list[str] = []
    view: Any = SimpleNamespace(event=told.append, error=errors.append)
    stage: Any = SimpleNamespace(name="toy", replayer=server)
    drain([stage, stage], view, seconds, "python scripts/tune.py", server.clock)
    return server.now, "\n".join(told), "\n".join(errors)


def test_a_quick_server_is_waited_for_to_the_end() -> None:
    seconds, told, errors = drained(Server(100, 5.0))
    assert 20.0 <= seconds <= 22.0
    assert "sending the remaining 98 events to MLflow (toy), for at most 60 s" in told
    assert errors == ""


def test_a_server_that_takes_nothing_is_left_soon() -> None:
    seconds, _, errors = drained(Server(4000, 0.0))
    assert seconds <= STILL_SECONDS + 3.0
    assert "4,000 events of toy are waiting for MLflow (it has taken none for 30 s)" in errors
    assert "nothing is lost, and running the same command again sends the rest:" in errors
    assert "python scripts/tune.py" in errors


def test_a_server_that_would_take_an_hour_is_not_waited_for() -> None:
    seconds, _, errors = drained(Server(4000, 1.0))
    assert seconds <= RATED_SECONDS + 3.0
    assert "it takes 0.9 per second, which would be 1 h 14 min" in errors


def test_a_slow_server_is_waited_for_nearly_as_long_as_was_said() -> None:
    seconds, told, errors = drained(Server(100, 1.5))
    assert "for at most 60 s" in told
    assert 45.0 <= seconds <= 62.0
    assert "are waiting for MLflow (it takes 1." in errors
    assert "(it is slow)" in drained(Server(100, 1.5), seconds=9.0)[2]
    assert drained(Server(1, 0.0), seconds=5.0)[2].startswith("1 event of toy is waiting")


def test_a_server_that_is_back_is_waited_for_although_the_last_attempt_failed() -> None:
    seconds, _, errors = drained(Server(100, 5.0, error="refused"))
    assert 20.0 <= seconds <= 22.0
    assert errors == ""


def test_a_server_that_fails_again_is_left_at_once() -> None:
    seconds, _, errors = drained(Server(100, 0.0, error="refused", fails=True))
    assert seconds <= 3.0
    assert "100 events of toy are waiting for MLflow (refused); nothing is lost" in errors
