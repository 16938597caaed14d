"""A study in PostgreSQL: the same search as in a journal, whatever happens to the server meanwhile."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError, PendingRollbackError

from meanflow_tune.files import Unreachable, WaitForSpace
from meanflow_tune.search.errors import DatabaseDown, LeaseLost, StorageError, UnusableDatabase
from meanflow_tune.search.store.database import CHECK_SECONDS, check_database, down_as_error
from meanflow_tune.search.store.database_lease import TABLE, DatabaseLease, acquire_lease
from meanflow_tune.search.store.storage import Storage, open_storage
from tests.support.servers.listeners import silent
from tests.support.servers.postgresql import PASSWORD, PostgresServer
from tests.support.studies import NAME, allow, make_ledger, outcome_of, run_all


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The toy search in a journal, which nothing disturbed."""
    folder = tmp_path_factory.mktemp("journal")
    run_all(make_ledger(folder))
    return outcome_of(folder)


class Patience:
    """Waits for a server, and remembers what it said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stopped = False
        self.policy = WaitForSpace(self.said.append, lambda: self.stopped, pause=0.05)


@contextmanager
def restarts(server: PostgresServer, modes: tuple[str, ...], down: float) -> Iterator[None]:
    """The server goes down and up again in the background, once per mode."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            for mode in modes:
                time.sleep(0.1)
                with server.down(mode):
                    time.sleep(down)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not failed


def test_the_same_search_as_in_a_journal(
    postgres: PostgresServer, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    url = postgres.new_url()
    run_all(make_ledger(tmp_path, open_storage(url, allow)))
    assert outcome_of(tmp_path, url) == expected


@pytest.mark.slow
def test_a_server_that_restarts_loses_and_doubles_nothing(
    postgres: PostgresServer, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    url, patience = postgres.new_url(), Patience()
    with acquire_lease(tmp_path, NAME, url) as lease:
        assert isinstance(lease, DatabaseLease)
        storage = open_storage(
            url, lease.check, write_policy=patience.policy, commit_fence=lease.guard
        )
        ledger = make_ledger(tmp_path, storage)
        with restarts(postgres, ("fast", "immediate", "fast"), down=0.5):
            run_all(ledger)
    assert outcome_of(tmp_path, url) == expected
    down = [line for line in patience.said if "does not answer" in line]
    assert down, "the server was never down while it was needed"
    assert "the search continues once it does" in down[0]
    assert not any(PASSWORD in line for line in patience.said)


def failing_after(method: Callable[..., Any], lost: list[str]) -> Callable[..., Any]:
    """A method whose every first call is made, and whose acknowledgement is then lost."""
    seen = False

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        result = method(*args, **kwargs)
        seen = not seen
        if seen:
            lost.append(method.__name__)
            raise OperationalError("COMMIT", {}, Exception("the connection was lost"))
        return result

    return call


WRITES = (
    "create_new_study",
    "set_study_user_attr",
    "create_new_trial",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
)


def test_a_write_whose_acknowledgement_was_lost_is_made_once(
    postgres: PostgresServer, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    url, patience, lost = postgres.new_url(), Patience(), list[str]()
    storage: Any = open_storage(url, allow, write_policy=patience.policy)
    for name in WRITES:
        setattr(storage._inner, name, failing_after(getattr(storage._inner, name), lost))
    run_all(make_ledger(tmp_path, storage))
    assert set(lost) == set(WRITES)
    assert outcome_of(tmp_path, url) == expected


def test_a_deletion_whose_acknowledgement_was_lost(postgres: PostgresServer) -> None:
    storage: Any = open_storage(postgres.new_url(), allow, write_policy=Patience().policy)
    study = storage.create_new_study([], NAME)
    storage._inner.delete_study = failing_after(storage._inner.delete_study, [])
    storage.delete_study(study)
    assert storage.get_all_studies() == []


def test_a_driver_that_gives_up_waiting_gets_the_error(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    patience = Patience()
    storage = open_storage(postgres.new_url(), allow, write_policy=patience.policy)
    ledger = make_ledger(tmp_path, storage)
    with postgres.down():
        threading.Timer(0.5, lambda: setattr(patience, "stopped", True)).start()
        with pytest.raises(DatabaseDown, match="does not answer"):
            ledger.next()
    patience.stopped = False
    run_all(ledger)


def test_a_lease_waits_through_an_outage_and_is_kept(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    with acquire_lease(tmp_path, NAME, postgres.new_url(), stale_after=0.5) as lease:
        with postgres.down():
            with pytest.raises(Unreachable):
                lease.check()
            time.sleep(0.5)
        lease.check()


def test_a_write_of_a_driver_that_lost_its_lease_is_not_committed(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """It was suspended between the check of its lease and its commit."""
    url = postgres.new_url()
    lease = acquire_lease(tmp_path, NAME, url)
    assert isinstance(lease, DatabaseLease)
    storage: Storage = open_storage(url, allow, commit_fence=lease.guard)
    study = storage.create_new_study([], NAME)
    postgres.query(f"UPDATE {TABLE} SET token = 'another', epoch = 7", url.rpartition("/")[2])
    with pytest.raises(LeaseLost, match="epoch 7"):
        storage.set_study_user_attr(study, "late", True)
    assert storage.get_study_user_attrs(study) == {}
    lease.release()


def test_a_suspended_write_ends_by_itself(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the row of the lease, which the next driver has to change."""
    url = postgres.new_url()
    monkeypatch.setattr("meanflow_tune.search.store.database.IDLE_SECONDS", 1)
    lease = acquire_lease(tmp_path, NAME, url)
    assert isinstance(lease, DatabaseLease)
    asleep, awake = threading.Event(), threading.Event()

    def suspended(connection: Any) -> None:
        lease.guard(connection)
        asleep.set()
        awake.wait(120)

    raised: list[BaseException] = []

    def write() -> None:
        try:
            storage.create_new_study([], NAME)
        except BaseException as error:
            raised.append(error)

    storage = open_storage(url, allow, commit_fence=suspended)
    thread = threading.Thread(target=write)
    thread.start()
    assert asleep.wait(60)
    begun = time.monotonic()
    statement = f"UPDATE {TABLE} SET token = 'another'"
    postgres.query(statement, url.rpartition("/")[2])
    assert time.monotonic() - begun < 60
    awake.set()
    thread.join()
    assert isinstance(raised[0], DatabaseDown)
    assert open_storage(url).get_all_studies() == []
    lease.release()


def test_a_reader_writes_nothing(postgres: PostgresServer) -> None:
    storage = open_storage(postgres.new_url())
    with pytest.raises(StorageError, match="for reading only") as caught:
        storage.create_new_study([], NAME)
    assert PASSWORD not in str(caught.value)


def test_a_transaction_used_again_after_its_connection_was_lost_is_an_outage() -> None:
    """Optuna 5.0 catches the loss of a connection while it loads a trial's rows, and reads on."""
    with pytest.raises(DatabaseDown), down_as_error("postgresql://u@h/d"):
        raise StorageInternalError("commit") from PendingRollbackError("Can't reconnect")
    with pytest.raises(StorageInternalError), down_as_error("postgresql://u@h/d"):
        raise StorageInternalError("commit") from ValueError("a fault of one's own")


def refused(url: str) -> StorageError:
    begun = time.monotonic()
    with pytest.raises(StorageError) as caught:
        check_database(url)
    assert time.monotonic() - begun < 10
    assert "\n" not in str(caught.value)
    assert "canary" not in str(caught.value)
    return caught.value


def test_a_server_that_is_down_or_hangs_is_refused_in_time(postgres: PostgresServer) -> None:
    url = postgres.new_url()
    check_database(url)
    with postgres.down():
        error = refused(url)
        assert isinstance(error, DatabaseDown)
        assert "Connection refused" in str(error)
    with postgres.hung():
        assert isinstance(refused(url), DatabaseDown)
    with silent() as port:
        assert isinstance(refused(f"postgresql://u:canary@127.0.0.1:{port}/d"), DatabaseDown)
    check_database(url)
    assert CHECK_SECONDS < 10


def test_what_a_user_has_to_correct_is_named(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_url()
    wrong = refused(url.replace(PASSWORD, "canary"))
    assert isinstance(wrong, UnusableDatabase)
    assert "password authentication failed" in str(wrong)
    missing = refused(f"{url}x")
    assert isinstance(missing, UnusableDatabase)
    assert "create the database" in str(missing)
    for nonsense in ("postgres://u:canary@h/d", "postgresql://u:canary@h:port/d"):
        assert "give postgresql://USER@HOST/DATABASE" in str(refused(nonsense))
    other = refused("postgresql+psycopg2://u:canary@h/d")
    assert "pip install 'psycopg2'" in str(other)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "pip install 'meanflow-tune[postgres]'" in str(refused(url))
