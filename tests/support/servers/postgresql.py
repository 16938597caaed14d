"""A real PostgreSQL server on 127.0.0.1 that a test can stop, start, hang and kill.

The distribution's programs (Debian: `postgresql`), with a data directory of its own. The server refuses
to run as root, so that root starts it as `nobody`.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.needs import unavailable
from tests.support.ports import free_ports

USER, PASSWORD = "searcher", "s3cret-canary"
PATIENCE = 60.0
_FAST = (
    "-c fsync=on -c shared_buffers=16MB -c max_connections=60 -c unix_socket_directories=''"
    " -c listen_addresses=127.0.0.1"
)


class PostgresServer:
    """One server; `url(name)` is that of a database, which is created when it is first named."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._data, self.port = folder, folder / "data", free_ports(1)
        self._programs = _programs()
        self._made: set[str] = set()

    def url(self, database: str, password: str = PASSWORD) -> str:
        if database not in self._made:
            self._made.add(database)
            self._run("psql", "-c", f'CREATE DATABASE "{database}"', "-d", "postgres")
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def new_url(self) -> str:
        """Of an empty database."""
        return self.url(f"d{uuid.uuid4().hex}")

    def create(self) -> None:
        """Initialise the data directory and start."""
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        self._folder.chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(self._folder, "nobody")
            shutil.chown(secret, "nobody")
        given = f"-U {USER} --pwfile={secret} --auth=scram-sha-256 -E UTF8 --no-sync"
        self._run("initdb", "-D", str(self._data), *given.split())
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} {_FAST}"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._data), "-l", log, "-w", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """mode: fast ends sessions cleanly; immediate is a crash."""
        self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop")

    def query(self, statement: str, database: str = "postgres") -> str:
        return self._run("psql", "-At", "-c", statement, "-d", database)

    @contextmanager
    def down(self, mode: str = "fast") -> Iterator[None]:
        self.stop(mode)
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Accepts connections and answers none: its first process is suspended."""
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        if (self._data / "postmaster.pid").exists():
            self.stop("immediate")

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self._programs / program), *arguments]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]
        access = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": USER}
        # pg_ctl's server would keep pipes open, so that the call never ended: through a file.
        with tempfile.TemporaryFile("w+") as out:
            done = subprocess.run(
                command,
                env={**os.environ, **access, "PGPASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"},
                cwd="/",
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
            )
            out.seek(0)
            text = out.read()
        assert done.returncode == 0, f"{program}: {text}"
        return text.strip()


def _programs() -> Path:
    """The folder of the server's programs; Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        unavailable("needs the programs of a PostgreSQL server (Debian: postgresql)")
    return folders[-1]


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server for a module of tests."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    server = PostgresServer(folder)
    try:
        server.create()
        yield server
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)
