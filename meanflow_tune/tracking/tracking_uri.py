"""Whether a tracking URI can be used, found out before anything starts; a refusal names the remedy."""

import base64
import contextlib
import importlib.util
import json
import os
import re
import socket
import sqlite3
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from meanflow_tune.files import sqlite_path
from meanflow_tune.urls import hide_password

SECONDS = 8.0  # for all of a check, name resolution included
_ANSWER = 4.0  # seconds for a connection, or between two parts of an answer
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# MLflow itself finds the host and the credentials of these.
_MANAGED = ("databricks", "databricks-uc", "uc")
_KNOWN = "http://HOST:PORT of `mlflow server`, or sqlite:///FILE"
_PROBE = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
_STARTING = (502, 503, 504)  # a proxy whose server is down


class UnusableUri(ValueError):
    """The URI itself has to be corrected: no wait helps."""


class NoAnswer(ConnectionError):
    """The URI may be right, and nothing answers there now."""


def check_uri(uri: str, seconds: float = SECONDS) -> None:
    """Raises UnusableUri or NoAnswer, within `seconds`; the message names the URI without its password."""
    shown = hide_password(uri)
    scheme, colon, _ = uri.partition(":")
    kind = scheme.partition("+")[0].lower()
    if not colon or kind == "file" or len(scheme) == 1:
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
            return
        raise UnusableUri(f"{shown}: MLflow keeps no runs in folders any more; give {_KNOWN}.")
    if kind in _MANAGED:
        return
    if kind in ("http", "https"):
        _within(seconds, lambda: _check_server(uri, shown), shown)
    elif kind == "sqlite":
        check_sqlite(uri)
    elif kind in _PORTS:
        _within(seconds, lambda: _check_database(uri, kind, shown), shown)
    else:
        raise UnusableUri(f"{shown}: MLflow knows no tracking URI of this kind; give {_KNOWN}.")


def _within(seconds: float, check: Callable[[], None], shown: str) -> None:
    """Call in a thread: the resolution of a name has no timeout of its own."""
    raised: list[Exception] = []

    def guarded() -> None:
        try:
            check()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=guarded, name="tracking-check", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise NoAnswer(f"{shown}: no answer within {seconds:.0f} s")
    if raised:
        raise raised[0]


def _check_server(uri: str, shown: str) -> None:
    parts = _split(uri, shown)
    headers = {"Accept": "application/json"}
    user, password = parts.username, parts.password
    user = unquote(user) if user else os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = unquote(password) if password else os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user and password:
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    place = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    request = urllib.request.Request(place.rstrip("/") + _PROBE, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER, context=_tls()) as answer:
            status, body = answer.status, answer.read(100_000)
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read(100_000)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        if isinstance(why, ssl.SSLCertVerificationError):
            raise UnusableUri(
                f"{shown}: its certificate is not trusted ({why.verify_message}); name the file of its "
                "authority by MLFLOW_TRACKING_SERVER_CERT_PATH."
            ) from None
        if isinstance(why, TimeoutError):
            why = f"it accepts connections, or drops them, and sends no answer in {_ANSWER:.0f} s"
        raise NoAnswer(f"{shown}: no MLflow server answers ({why})") from None
    except Exception as error:  # http.client: what answers does not speak HTTP
        raise UnusableUri(
            f"{shown}: what listens there is no MLflow server ({type(error).__name__}); give the host and "
            "port of `mlflow server`."
        ) from None
    if status in (401, 403):
        raise UnusableUri(
            f"{shown}: the server refuses this login (HTTP {status}); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if status in _STARTING:
        raise NoAnswer(f"{shown}: no MLflow server answers (HTTP {status} from a proxy)")
    if not _is_mlflow(body):
        raise UnusableUri(
            f"{shown}: what answers there is no MLflow server (HTTP {status}); give the host, port and path "
            "of `mlflow server`."
        )


def _split(uri: str, shown: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        good = bool(parts.hostname) and not re.search(r"\s", uri) and parts.port != 0
    except ValueError:  # a port that is no number, a torn IPv6 address
        good = False
    if not good:
        raise UnusableUri(f"{shown}: this URI has no usable host and port; give {_KNOWN}.")
    return parts


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    if authority:
        with contextlib.suppress(OSError):
            context.load_verify_locations(authority)
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _is_mlflow(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and ("experiment" in answer or "error_code" in answer)


def _check_database(uri: str, kind: str, shown: str) -> None:
    """A server of SQL: its driver is installed and its port is open."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        url = make_url(uri)
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise UnusableUri(f"{shown}: not a database URL; give {_KNOWN}.") from None
    except ImportError as error:
        raise UnusableUri(
            f"{shown}: the Python package {error.name} is not installed; install it, or give {_KNOWN}."
        ) from None
    host, port = url.host or "localhost", url.port or _PORTS[kind]
    if "host" in url.query or host.startswith("/"):  # a socket's folder
        return
    try:
        socket.create_connection((host, port), timeout=_ANSWER).close()
    except OSError as error:
        raise NoAnswer(f"{shown}: no database server answers ({error})") from None


def check_sqlite(uri: str) -> None:
    """Raises UnusableUri unless the file is a database of this MLflow, or can be made."""
    path = sqlite_path(uri)
    if path is None:
        raise UnusableUri(f"{hide_password(uri)}: names no file; give sqlite:///FILE.")
    uri, path = hide_password(uri), path.absolute()
    folder = path.parent
    if not folder.is_dir():
        raise UnusableUri(
            f"{uri}: the folder {folder} does not exist; create it, or correct the URI."
        )
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UnusableUri(
            f"{uri}: cannot write to {folder} ({error.strerror}), as SQLite must; name a folder that can be "
            "written."
        ) from None
    if path.exists():
        _check_file(uri, path)


def _check_file(uri: str, path: Path) -> None:
    if not os.access(path, os.W_OK) or not path.is_file():
        raise UnusableUri(f"{uri}: {path} is no file that can be written; name another.")
    try:
        with closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)
        ) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            if not tables:
                return
            found = (
                [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
                if "alembic_version" in tables
                else []
            )
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return
        raise UnusableUri(
            f"{uri}: {path} is no usable SQLite database ({error}); move it away (MLflow's tree is rebuilt "
            "from the study), or name another file."
        ) from None
    if "experiments" not in tables:
        raise UnusableUri(
            f"{uri}: {path} is the database of another program, without MLflow's tables; name another file."
        )
    wanted = latest_schema()
    if wanted is not None and wanted not in found:
        has = ", ".join(found) or "none"
        raise UnusableUri(
            f"{uri}: {path} has the schema of another MLflow version ({has}; this one needs {wanted}); after "
            f"a backup run `mlflow db upgrade {uri}`, or install the version of MLflow that wrote it."
        )


@cache
def latest_schema() -> str | None:
    """The revision at the end of MLflow's migrations, read from its files: importing it takes seconds."""
    spec = importlib.util.find_spec("mlflow")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "store/db_migrations/versions"
    own: set[str] = set()
    earlier: set[str] = set()
    for file in folder.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        for name, found in (("revision", own), ("down_revision", earlier)):
            line = re.search(rf"^{name}\b[^=\n]*=(.*)$", text, flags=re.MULTILINE)
            if line:
                found.update(re.findall(r"""["']([0-9a-z_]+)["']""", line[1]))
    heads = own - earlier
    return heads.pop() if len(heads) == 1 else None
