"""The lease of a study in a PostgreSQL database, for drivers on hosts that need not share a file system.

A row per study names the holder and the epoch; heartbeats are by the database's clock. Each acquisition
is one transaction, and each write of the study is committed together with a look at the row, so that a
driver that was suspended writes nothing after another took over. The study's folder keeps its own lease
with the same epoch, which guards its files and is what workers look at.
"""

import logging
import os
import secrets
import socket
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from meanflow_tune.search.errors import Holder, LeaseLost, StorageError, StudyInUse, one_line
from meanflow_tune.search.store.database import (
    IDLE_SECONDS,
    down_as_error,
    is_down,
    is_postgresql,
    make_engine,
)
from meanflow_tune.search.store.holder import (
    LeaseState,
    has_died,
    is_here,
    pid_namespace,
    process_start,
    read_lease,
)
from meanflow_tune.search.store.lease import Beat, Lease
from meanflow_tune.urls import hide_password

if TYPE_CHECKING:
    from sqlalchemy import Connection

TABLE = "meanflow_tune_leases"
_COLUMNS = (
    "study text PRIMARY KEY, token text NOT NULL, host text NOT NULL, place text NOT NULL, pid bigint,"
    " process_start bigint, epoch bigint NOT NULL, heartbeat timestamptz NOT NULL"
)
_OWN = f"FROM {TABLE} WHERE study = :study AND token = :token AND pid IS NOT NULL"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Row:
    """A study's row. age: seconds since its last heartbeat, by the database's clock."""

    state: LeaseState
    age: float


class DatabaseLease:
    """A held lease, like `Lease`: a context manager that releases it. Made by `acquire_lease`."""

    def __init__(
        self, url: str, study: str, stale_after: float, silent: Collection[Beat] = ()
    ) -> None:
        self.epoch, self.taken_over = 0, False
        self._url, self._study, self._stale_after = url, study, stale_after
        self._silent = silent
        self._token = secrets.token_hex(16)
        self._named = {"study": study, "token": self._token}
        self._engine = make_engine(url, pool_size=2)
        self._stop = threading.Event()
        self._files: Lease | None = None
        self._thread = threading.Thread(target=self._beat, name="lease heartbeat", daemon=True)

    def acquire(self, folder: Path) -> "DatabaseLease":
        """Take the row, then the lease of the study's folder, at one epoch."""
        try:
            with down_as_error(self._url):
                held = read_lease(folder)
                self._take(0 if held is None else held.epoch)
            given = self._stale_after, self.epoch - 1, self._silent
            self._files = Lease.acquire(folder, *given)
            if self._files.epoch != self.epoch:  # of a damaged file
                self.epoch = self._files.epoch
                changed = self._execute(
                    f"UPDATE {TABLE} SET epoch = :epoch WHERE study = :study AND token = :token",
                    epoch=self.epoch,
                )
                if not changed:
                    raise LeaseLost(self._lost())
        except BaseException:
            self._let_go()
            raise
        self.taken_over = self.taken_over or self._files.taken_over
        self._thread.start()
        return self

    def check(self) -> None:
        """Raise LeaseLost unless this driver still holds the lease; one small read."""
        if not self._execute(f"SELECT 1 {_OWN}"):
            raise LeaseLost(self._lost())
        if self._files is not None:
            self._files.check()

    def guard(self, connection: "Connection") -> None:
        """Raise LeaseLost unless the lease is held until the transaction of `connection` has ended."""
        from sqlalchemy import text

        # Whoever takes over waits for this lock; the server ends the transaction of a suspended client.
        if not connection.execute(text(f"SELECT 1 {_OWN} FOR SHARE"), self._named).first():
            raise LeaseLost(self._lost())

    def release(self) -> None:
        """Release the lease; its epoch stays. Safe to call twice."""
        if self._files is not None:
            self._files.release()
        self._let_go()

    def __enter__(self) -> "DatabaseLease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, after: int) -> None:
        """Write this process into the row, at an epoch above `after`."""
        from sqlalchemy import text

        with self._engine.begin() as connection:
            # Longer than a transaction of a suspended driver can hold the row.
            connection.execute(text(f"SET LOCAL lock_timeout = '{IDLE_SECONDS + 10}s'"))
            connection.execute(
                text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": TABLE}
            )
            connection.execute(text(f"CREATE TABLE IF NOT EXISTS {TABLE} ({_COLUMNS})"))
            row = _read(connection, self._study, "FOR UPDATE")
            if row is not None and row.state.pid is not None:
                self._refuse_if_alive(row)
                self.taken_over = True
            self.epoch = max(after, 0 if row is None else row.state.epoch) + 1
            mine = {
                "host": socket.gethostname(),
                "place": pid_namespace(),
                "pid": os.getpid(),
                "process_start": process_start(os.getpid()),
                "epoch": self.epoch,
            }
            names = ("study", "token", *mine)
            values = ", ".join(f":{name}" for name in names)
            update = ", ".join(f"{name} = excluded.{name}" for name in (*names, "heartbeat"))
            connection.execute(
                text(
                    f"INSERT INTO {TABLE} ({', '.join(names)}, heartbeat)"
                    f" VALUES ({values}, clock_timestamp())"
                    f" ON CONFLICT (study) DO UPDATE SET {update}"
                ),
                self._named | mine,
            )

    def _refuse_if_alive(self, row: _Row) -> None:
        held, wait = row.state, self._stale_after - row.age
        assert held.pid is not None
        beat = ("database", held.epoch, held.heartbeat)
        if has_died(held) or (not is_here(held) and (wait <= 0 or beat in self._silent)):
            return
        free = "" if is_here(held) else f"; if that driver is dead, it is free in {wait:.0f} s"
        holder = Holder(held.host, held.pid, row.age, beat, wait)
        raise StudyInUse(
            f"study {self._study} in {hide_password(self._url)} is in use by process {held.pid} on host"
            f" {held.host} (last heartbeat {max(row.age, 0.0):.0f} s ago); stop that process, wait for it,"
            f" or give the search another study name{free}",
            None if is_here(held) else holder,
        )

    def _execute(self, statement: str, **more: Any) -> int:
        """How many rows one statement changed, or whether it found one. Raises DatabaseDown."""
        from sqlalchemy import text

        with down_as_error(self._url):
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            with connection:
                result = connection.execute(text(statement), self._named | more)
                return int(result.first() is not None) if result.returns_rows else result.rowcount

    def _lost(self) -> str:
        try:
            row = read_row(self._url, self._study)
        except StorageError:
            row = None
        holder = f"process {row.pid} on {row.host}" if row and row.pid else "nobody"
        return (
            f"the lease of study {self._study} in {hide_password(self._url)} (epoch {self.epoch}) is now"
            f" held by {holder} (epoch {row.epoch if row else 'unknown'}); this driver must stop, and"
            " nothing that it still does is kept"
        )

    def _let_go(self) -> None:
        self._stop.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()
        try:
            self._execute(
                f"UPDATE {TABLE} SET pid = NULL, heartbeat = clock_timestamp()"
                " WHERE study = :study AND token = :token"
            )
        except Exception as error:  # the next driver takes over from a dead process
            if not is_down(error) and not isinstance(error, StorageError):
                log.debug("could not release the lease of %s: %s", self._study, one_line(error))
        finally:
            self._engine.dispose()

    def _beat(self) -> None:
        told = False  # once for all heartbeats that fail in a row
        while not self._stop.wait(self._stale_after / 5):
            try:
                held = self._execute(
                    f"UPDATE {TABLE} SET heartbeat = clock_timestamp()"
                    " WHERE study = :study AND token = :token AND pid IS NOT NULL"
                )
            except Exception as error:  # whatever it is, the next one may succeed
                why = hide_password(one_line(error))
                level, told = logging.DEBUG if told else logging.WARNING, True
                log.log(level, "no heartbeat for the lease of %s: %s", self._study, why)
                continue
            told = False
            if not held:
                return


# What a driver holds, whatever kind of storage its study has.
AnyLease: TypeAlias = Lease | DatabaseLease


def acquire_lease(
    folder: Path | str,
    study: str,
    url: str | None,
    stale_after: float = 30.0,
    silent: Collection[Beat] = (),
) -> AnyLease:
    """Take the lease of a study: in its PostgreSQL database where it has one, and in its folder.

    silent: heartbeats since which the caller has waited for another one, in vain (`lease_wait`).

    Raises:
        StudyInUse: a live driver holds it.
        StorageError: the folder or the database cannot be written or locked.
    """
    if url is None or not is_postgresql(url):
        return Lease.acquire(folder, stale_after, silent=silent)
    return DatabaseLease(url, study, stale_after, silent).acquire(Path(folder))


def read_row(url: str, study: str) -> LeaseState | None:
    """The lease of a study in its database, heartbeat by the database's clock; None where there is none."""
    from sqlalchemy import text

    engine = make_engine(url)
    try:
        with down_as_error(url), engine.connect() as connection:
            found = connection.execute(text("SELECT to_regclass(:name)"), {"name": TABLE}).scalar()
            row = _read(connection, study) if found is not None else None
            return None if row is None else row.state
    finally:
        engine.dispose()


def _read(connection: "Connection", study: str, lock: str = "") -> _Row | None:
    from sqlalchemy import text

    found = connection.execute(
        text(
            "SELECT host, place, pid, process_start, epoch, EXTRACT(EPOCH FROM heartbeat) AS heartbeat,"
            " EXTRACT(EPOCH FROM clock_timestamp() - heartbeat) AS age"
            f" FROM {TABLE} WHERE study = :study {lock}"
        ),
        {"study": study},
    ).mappings()
    for row in found:
        fields = dict(row)
        age = float(fields.pop("age"))
        return _Row(LeaseState(**fields | {"heartbeat": float(fields["heartbeat"])}), age)
    return None
