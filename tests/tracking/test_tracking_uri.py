"""Tracking URIs that cannot be used, and servers that do not answer, are told apart within seconds."""

import sqlite3
import time
from pathlib import Path

import pytest

from meanflow_tune.tracking import tracking_uri
from meanflow_tune.tracking.tracking_uri import NoAnswer, UnusableUri, check_uri, latest_schema
from meanflow_tune.urls import hide_password
from tests.support.servers.listeners import answering, greeting, silent

MLFLOW = b'{"experiment": {"experiment_id": "0"}}'
NO_DEFAULT = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No experiment"}'


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("./mlruns", "keeps no runs in folders any more; give http://HOST:PORT"),
        ("mlruns", "folders"),
        ("file:///tmp/mlruns", "folders"),
        ("ftp://host/mlflow", "knows no tracking URI of this kind"),
        ("htp://127.0.0.1:5000", "knows no tracking URI of this kind"),
        ("http://", "no usable host and port"),
        ("http://:5000", "no usable host and port"),
        ("http://host:port", "no usable host and port"),
        ("http://host:99999", "no usable host and port"),
        ("http://[::1", "no usable host and port"),
        ("http://my host:5000", "no usable host and port"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////nowhere/at/all.db", "/nowhere/at does not exist; create it"),
        ("sqlite:////proc/mlflow.db", "cannot write to /proc"),
        ("postgresql+nodriver://me:secret@host/db", "not a database URL"),
        ("mysql+pymysql://me:secret@host/db", "pymysql is not installed"),
    ],
)
def test_a_uri_that_no_wait_makes_usable(uri: str, words: str) -> None:
    with pytest.raises(UnusableUri) as caught:
        check_uri(uri)
    message = str(caught.value)
    assert words in message
    assert len(message.splitlines()) == 1
    assert message.startswith(hide_password(uri))
    assert "secret" not in message


def test_files_that_are_no_database_of_this_mlflow(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("a text, not a database" * 100)
    other, old, good = (tmp_path / name for name in ("other.db", "old.db", "good.db"))
    for path, tables in (
        (other, ["songs (name)"]),
        (old, ["experiments (name)", "alembic_version (version_num)"]),
        (good, ["experiments (name)", "alembic_version (version_num)"]),
    ):
        with sqlite3.connect(path) as connection:
            for table in tables:
                connection.execute(f"CREATE TABLE {table}")
    for path, version in ((old, "0123abc"), (good, latest_schema())):
        with sqlite3.connect(path) as connection:
            connection.execute("INSERT INTO alembic_version VALUES (?)", (version,))
    for path, words in (
        (text, "no usable SQLite database"),
        (other, "database of another program"),
        (old, r"another MLflow version \(0123abc; this one needs .*`mlflow db upgrade"),
        (tmp_path, "is no file that can be written"),
    ):
        with pytest.raises(UnusableUri, match=words):
            check_uri(f"sqlite:///{path}")
    for path in (good, tmp_path / "new.db"):
        check_uri(f"sqlite:///{path}")
    assert not (tmp_path / "new.db").exists()


@pytest.mark.slow
def test_the_newest_schema_is_that_of_mlflow_itself() -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    assert latest_schema() == _get_latest_schema_revision()


@pytest.mark.parametrize("body", [MLFLOW, NO_DEFAULT])
def test_mlflow_is_known_by_its_answer(body: bytes) -> None:
    with answering(200 if body == MLFLOW else 404, body) as port:
        check_uri(f"http://127.0.0.1:{port}")
        check_uri(f"http://me:secret@127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (200, b"<html>Welcome</html>", UnusableUri, "no MLflow server"),
        (200, b'{"detail": "Hello"}', UnusableUri, "no MLflow server"),
        (200, b"[1]", UnusableUri, "no MLflow server"),
        (404, b"not found", UnusableUri, "no MLflow server"),
        (401, b"who are you?", UnusableUri, "MLFLOW_TRACKING_USERNAME"),
        (403, b'{"error_code": "PERMISSION_DENIED"}', UnusableUri, "MLFLOW_TRACKING_USERNAME"),
        (502, b"bad gateway", NoAnswer, "HTTP 502 from a proxy"),
        (503, b"starting", NoAnswer, "HTTP 503 from a proxy"),
    ],
)
def test_who_else_answers(status: int, body: bytes, kind: type[Exception], words: str) -> None:
    with answering(status, body) as port, pytest.raises(kind, match=words) as caught:
        check_uri(f"http://me:secret@127.0.0.1:{port}")
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_another_protocol_is_no_mlflow_server() -> None:
    with greeting() as port, pytest.raises(UnusableUri, match="no MLflow server"):
        check_uri(f"http://127.0.0.1:{port}")


def test_a_server_that_is_not_there_or_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_uri, "_ANSWER", 0.2)
    with silent() as port:
        with pytest.raises(NoAnswer, match=r"no MLflow server answers .*sends no answer in"):
            check_uri(f"http://127.0.0.1:{port}")
        dead = port
    with pytest.raises(NoAnswer, match="refused"):
        check_uri(f"http://127.0.0.1:{dead}")


def test_whatever_hangs_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_uri, "_check_server", lambda *_: time.sleep(30))
    began = time.monotonic()
    with pytest.raises(NoAnswer, match="no answer within"):
        check_uri("http://name.that.never.resolves:5000", seconds=0.1)
    assert time.monotonic() - began < 5
