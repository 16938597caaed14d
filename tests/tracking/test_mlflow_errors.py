"""Which errors use an event up: only a refusal of its content, with what a user can do about it."""

import json
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.tracking.events import Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink, target_of
from meanflow_tune.tracking.mlflow_store import default_uri
from meanflow_tune.tracking.outbox import Event, Outbox
from meanflow_tune.tracking.replay import Rejected
from tests.support.stories import STUDY

pytestmark = pytest.mark.slow  # imports mlflow
REMOTE = "http://me:secret@127.0.0.1:9"


@pytest.fixture
def started(tmp_path: Path) -> Event:
    outbox = Outbox(tmp_path)
    Tracker(outbox, STUDY).search_started({"goal": "g"})
    (event,) = outbox.events(10**9)
    return event


class Broken:
    """A client of which every call fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Any:
        raise self.error


def failing(storage: Path, uri: str | None, error: Exception) -> MlflowSink:
    sink = MlflowSink(storage, uri)
    sink._connected = Broken(error)  # type: ignore[assignment]
    return sink


def mlflow_error(message: str, code: str, answered: bool = True) -> Exception:
    from mlflow.exceptions import MlflowException, RestException
    from mlflow.protos.databricks_pb2 import ErrorCode

    if answered:
        return RestException({"error_code": code, "message": message})
    return MlflowException(message, error_code=ErrorCode.Value(code))


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        (REMOTE, json.JSONDecodeError("Expecting value", "<html>", 0)),
        (REMOTE, UnicodeError("label too long")),
        (REMOTE, ConnectionError("refused")),
        (REMOTE, mlflow_error("no such page", "RESOURCE_DOES_NOT_EXIST", answered=False)),
        (REMOTE, mlflow_error("log in first", "PERMISSION_DENIED")),
        (REMOTE, mlflow_error("busy", "TEMPORARILY_UNAVAILABLE")),
        (None, mlflow_error("(sqlite3.DatabaseError) malformed", "BAD_REQUEST", answered=False)),
        (None, mlflow_error("file is not a database", "BAD_REQUEST", answered=False)),
        (REMOTE, mlflow_error("(sqlite3.DatabaseError) disk image", "BAD_REQUEST")),
    ],
)
def test_what_is_not_the_events_fault_is_tried_again(
    tmp_path: Path, started: Event, uri: str | None, error: Exception
) -> None:
    with pytest.raises(type(error)):
        failing(tmp_path, uri, error).apply(started)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (mlflow_error("this value", "INVALID_PARAMETER_VALUE"), "the study and its result files"),
        (KeyError("facts"), "another version of meanflow_tune"),
        (FileNotFoundError("best.png"), "put the file back"),
    ],
)
def test_a_refusal_names_what_to_do(
    tmp_path: Path, started: Event, error: Exception, remedy: str
) -> None:
    with pytest.raises(Rejected) as caught:
        failing(tmp_path, REMOTE, error).apply(started)
    assert remedy in caught.value.remedy


def test_a_uri_that_mlflow_does_not_know_uses_nothing_up(tmp_path: Path, started: Event) -> None:
    """MLflow calls it an invalid parameter, as if it were the event's."""
    sink = MlflowSink(tmp_path, "ftp://me:secret@host/mlflow")
    with pytest.raises(ConnectionError, match=r"ftp://\*\*\*@host") as caught:
        sink.apply(started)
    assert "secret" not in str(caught.value)


def test_targets_name_no_password_and_no_place_of_the_storage(tmp_path: Path) -> None:
    assert target_of(default_uri(tmp_path), tmp_path) == ""
    assert target_of(f"{REMOTE}/", tmp_path) == "http://***@127.0.0.1:9"
    assert target_of("sqlite:///a.db", tmp_path) == f"sqlite:///{Path('a.db').absolute()}"
