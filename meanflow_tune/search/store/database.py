"""A study in a database on a server: checked before a search, waited for while it is down, written once.

A server may vanish between a commit and its acknowledgement. The repeated call then finds its own work,
which is unambiguous since only the holder of the study's lease writes.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.files import WritePolicy, write_once
from meanflow_tune.search.errors import DatabaseDown, StorageError, UnusableDatabase
from meanflow_tune.search.store.proxy import StorageProxy
from meanflow_tune.urls import hide_password

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

T = TypeVar("T")
CHECK_SECONDS = 8.0  # for all of a check, name resolution included
CONNECT_SECONDS = 5
# After which the server ends a transaction whose client is suspended, and its locks.
IDLE_SECONDS = 20
_EXTRAS = {"psycopg": "meanflow-tune[postgres]"}
_TRANSIENT = (
    "starting up",
    "shutting down",
    "in recovery",
    "too many",
    "remaining connection slots",
)
_READ_ONLY = "25006"  # a standby server, or one that has just been replaced by its standby


def is_postgresql(url: str | None) -> bool:
    """Whether a URL names a database on a PostgreSQL server."""
    scheme = (url or "").partition("://")[0]
    return scheme.partition("+")[0] == "postgresql"


def same_database(one: str, other: str) -> bool:
    """Whether two URLs name one database, and the same schema in it."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        urls = [make_url(url) for url in (one, other)]
    except (ArgumentError, ValueError):
        return False
    first, second = (
        (u.get_backend_name(), u.host, u.port or 5432, u.database, u.query.get("options"))
        for u in urls
    )
    return first == second


def make_engine(url: str, **options: Any) -> "Engine":
    """An engine that gives up on a silent server. Raises UnusableDatabase."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        return create_engine(url, **engine_options(url), **options)
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise UnusableDatabase(
            f"{hide_password(url)} is no database URL; give postgresql://USER@HOST/DATABASE"
        ) from None
    except ImportError as error:
        raise _missing_driver(url, error) from None


def engine_options(url: str) -> dict[str, Any]:
    """Options of SQLAlchemy's `create_engine`: a lost connection is replaced, a silent server given up."""
    options: dict[str, Any] = {"pool_pre_ping": True}
    if is_postgresql(url) and "connect_timeout" not in url:
        options["connect_args"] = {"connect_timeout": CONNECT_SECONDS}
    return options


def check_database(url: str) -> None:
    """Connect once, within CHECK_SECONDS.

    Raises:
        UnusableDatabase: the URL, the login or the driver has to be corrected.
        DatabaseDown: nothing answers there now.
    """
    engine, raised = make_engine(url), []

    def connect() -> None:
        try:
            engine.connect().close()
        except Exception as error:
            raised.append(error)

    # In a thread: the resolution of a name has no timeout of its own.
    thread = threading.Thread(target=connect, name="database-check", daemon=True)
    thread.start()
    thread.join(CHECK_SECONDS)
    shown = hide_password(url)
    if thread.is_alive():
        raise DatabaseDown(f"the database {shown}", f"nothing within {CHECK_SECONDS:.0f} s")
    engine.dispose()
    for error in raised:
        why = reason(error)
        if "FATAL" in why and not any(words in why for words in _TRANSIENT):
            raise UnusableDatabase(
                f"the server of the database {shown} refuses this login ({why}); correct the URL, or create"
                " the database"
            )
        raise DatabaseDown(f"the database {shown}", why)


def reason(error: BaseException) -> str:
    """What a database's driver says, in one line without a password; SQLAlchemy's wrapping is left out."""
    original = getattr(error, "orig", None) or error
    first = (str(original).strip().splitlines() or [type(original).__name__])[0]
    return hide_password(first)


def is_down(error: BaseException | None) -> bool:
    """Whether an error means that a database's server is down, or was while a statement ran."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

    while error is not None:
        if isinstance(error, PendingRollbackError):
            return True  # Optuna swallowed the loss of a connection, and used its transaction again
        if isinstance(error, DBAPIError):
            return (
                isinstance(error, OperationalError | InterfaceError)
                or error.connection_invalidated
                or getattr(error.orig, "sqlstate", None) == _READ_ONLY
            )
        error = error.__cause__
    return False


@contextmanager
def down_as_error(url: str) -> Iterator[None]:
    """Raise DatabaseDown in the place of the errors that mean it."""
    try:
        yield
    except Exception as error:
        if not is_down(error):
            raise
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise DatabaseDown(f"the database {hide_password(url)}", reason(cause or error)) from error


class DatabaseStorage(StorageProxy):
    """Optuna's storage on a database's server.

    fence: called before each write, raises when the lease is lost; None opens it for reading only.
    policy: how a read or write is made; `files.WaitForSpace` waits while the server is down.
    commit_fence: called with the connection of a write before it is committed, and so in one transaction
    with it: a driver that was suspended in a write cannot complete it after another took over.
    """

    def __init__(
        self,
        url: str,
        fence: Callable[[], None] | None,
        policy: WritePolicy = write_once,
        commit_fence: "Callable[[Connection], None] | None" = None,
    ) -> None:
        super().__init__(_open(url))
        self._url, self._fence, self._policy = url, fence, policy
        self._commit_fence = commit_fence
        self._thread = threading.local()
        self._listen()

    def _listen(self) -> None:
        from sqlalchemy import event

        backend: Any = getattr(self._inner, "_backend", self._inner)
        engine: Engine = backend.engine
        if self._commit_fence is not None:
            event.listen(engine, "commit", self._before_commit)
        if is_postgresql(self._url):
            event.listen(engine, "connect", _limit_idleness)
            engine.dispose()  # connections without that limit

    def _before_commit(self, connection: "Connection") -> None:
        if self._commit_fence is not None and getattr(self._thread, "writing", False):
            self._commit_fence(connection)

    def _read(self, call: Callable[[], T]) -> T:
        def read() -> T:
            with down_as_error(self._url):
                return call()

        return self._policy(read, Path())

    def _write(self, call: Callable[[], T]) -> T:
        return self._repeatable(call, lambda: None)

    def _repeatable(self, call: Callable[[], T], done: Callable[[], T | None]) -> T:
        """One write; done: asked before it is repeated, returns its result where it was made after all.

        Where `done` is never needed, repeating the call changes nothing.
        """
        fence, tries = self._fence, 0
        if fence is None:
            raise StorageError(f"{hide_password(self._url)} was opened for reading only")

        def write() -> T:
            nonlocal tries
            tries += 1
            fence()
            with down_as_error(self._url):
                found = done() if tries > 1 else None
                if found is not None:
                    return found
                self._thread.writing = True
                try:
                    return call()
                finally:
                    self._thread.writing = False

        return self._policy(write, Path())

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        inner = self._inner

        def done() -> int | None:
            names = {study.study_name: study._study_id for study in inner.get_all_studies()}
            return names.get(study_name) if study_name is not None else None

        return self._repeatable(lambda: inner.create_new_study(directions, study_name), done)

    def delete_study(self, study_id: int) -> None:
        inner = self._inner

        def done() -> bool | None:
            return study_id not in {s._study_id for s in inner.get_all_studies()} or None

        def delete() -> bool:
            inner.delete_study(study_id)
            return True

        self._repeatable(delete, done)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        inner = self._inner
        before = self._read(lambda: len(inner.get_all_trials(study_id, deepcopy=False)))

        def done() -> int | None:
            trials = inner.get_all_trials(study_id, deepcopy=False)
            return trials[before]._trial_id if len(trials) > before else None

        return self._repeatable(lambda: inner.create_new_trial(study_id, template_trial), done)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        inner = self._inner

        def done() -> bool | None:
            # A trial is not running before the first call, which Optuna makes for waiting ones.
            return inner.get_trial(trial_id).state == state or None

        return self._repeatable(lambda: inner.set_trial_state_values(trial_id, state, values), done)


def _limit_idleness(connection: Any, _: object) -> None:
    """Let the server end a transaction of a suspended process, which holds locks that others wait for."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
    connection.commit()


def _open(url: str) -> BaseStorage:
    """Optuna's storage; its tables are made by one process at a time."""
    from optuna.storages import RDBStorage

    shown = hide_password(url)
    try:
        with down_as_error(url), _one_at_a_time(url):
            return get_storage(RDBStorage(url, engine_kwargs=engine_options(url)))
    except StorageError:
        raise
    except ImportError as error:
        raise _missing_driver(url, error) from error
    except Exception as error:  # any driver of any database, each with its own errors
        raise StorageError(
            f"cannot open the study storage {shown} ({type(error).__name__}: {reason(error)}); check the"
            " database and its driver"
        ) from error


@contextmanager
def _one_at_a_time(url: str) -> Iterator[None]:
    """Let one process after another make tables in a PostgreSQL database; nothing for other databases."""
    if not is_postgresql(url):
        yield
        return
    from sqlalchemy import text

    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            connection.execute(
                text("SELECT pg_advisory_xact_lock(hashtext('meanflow_tune optuna'))")
            )
            yield
    finally:
        engine.dispose()


def _missing_driver(url: str, error: ImportError) -> UnusableDatabase:
    package = _EXTRAS.get(error.name or "", error.name or "its driver")
    return UnusableDatabase(
        f"{hide_password(url)} needs the Python package {error.name}, which is not installed:"
        f" pip install '{package}'"
    )
