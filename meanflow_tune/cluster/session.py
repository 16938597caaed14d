"""Starting a private Ray on this machine, or joining a running Ray cluster."""

import contextlib
import importlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from meanflow_tune.cluster.errors import ClusterError, ClusterUnreachable

OBJECT_STORE_BYTES = 200 * 2**20
PROBE_SECONDS = 3.0
DEFAULT_PORT = 6379

# Set before Ray is imported, here and by inheritance in its processes, unless the user has set them.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "TUNE_DISABLE_AUTO_INIT": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "1000000",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
}

# Threads that may still be inside a call of Ray.
_busy: list[threading.Thread] = []


@dataclass
class Session:
    """A connection to Ray. address: host:port of its head; local: it ends with this process."""

    address: str
    local: bool
    temp_dir: Path | None = None
    _before: dict[str, str | None] = field(default_factory=dict)

    def shutdown(self) -> None:
        """Disconnect; a private cluster ends and its files are removed.

        Not while a thread is inside Ray, whose next call would silently end this process with status 1:
        then `end_process` does it.
        """
        if _still_busy():
            return
        import ray

        ray.shutdown()
        _restore(self._before)
        _reread_environment()
        if self.temp_dir is not None:
            shutil.rmtree(self.temp_dir, ignore_errors=True)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


def leave_running(threads: Iterable[threading.Thread]) -> None:
    """Register threads that use Ray until the process ends and will not be joined."""
    _busy.extend(thread for thread in threads if thread.is_alive())


def end_process(status: int) -> NoReturn:
    """`sys.exit(status)`, without exit handlers where a thread is still inside Ray.

    Ray's own handler disconnects, see `Session.shutdown`. What this process has started, such as a
    private cluster, ends seconds later, as after a `kill -9`.
    """
    if _still_busy():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _still_busy() -> bool:
    return any(thread.is_alive() for thread in _busy)


def start_local(cpus: int | None = None, gpus: int | None = None, verbose: bool = False) -> Session:
    """A private Ray on this machine, which ends with this process, also after a kill.

    Its own folder and token keep others out. Raises ClusterError where it does not start.
    """
    temp_dir = _own_folder()
    before = _set_environment(
        {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ADDRESS": None,
        }
    )
    import ray

    _reread_environment()
    _hush(verbose)
    try:
        context = ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.CRITICAL,
            _temp_dir=str(temp_dir),
        )
    except Exception as error:
        _restore(before)
        _reread_environment()
        text = " ".join(str(error).split())[:400]
        raise ClusterError(
            f"Ray does not start on this machine: {text} (It waits for 30 s: is the machine overloaded, or "
            f"its memory full? Ray's logs are in {temp_dir}.)"
        ) from error
    address = str(context.address_info["gcs_address"])
    # Otherwise Ray's tools in our processes look for any Ray on this machine.
    os.environ["RAY_ADDRESS"] = address
    return Session(address, True, temp_dir, before)


def join(address: str | None = None, verbose: bool = False) -> Session:
    """Join the cluster at `address`, else at RAY_ADDRESS, else the one this host belongs to.

    Raises ClusterUnreachable, within seconds where nothing listens.
    """
    found = address or os.environ.get("RAY_ADDRESS") or "auto"
    if found == "auto":
        found = _local_head()
    host, port = parse_address(found)
    probe(host, port)
    before = _set_environment({})
    import ray

    _reread_environment()
    _hush(verbose)
    package = Path(__file__).resolve().parents[1]
    try:
        context = ray.init(
            address=f"{host}:{port}",
            runtime_env={
                "py_modules": [str(package)],
                "env_vars": {k: os.environ[k] for k in _QUIET},
            },
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.CRITICAL,
        )
    except Exception as error:
        _restore(before)
        text = " ".join(str(error).split())[:400]
        raise ClusterUnreachable(
            f"{host}:{port} answers, but Ray {ray.__version__} cannot join it from here: {text} (This "
            "host must run `ray start --address=...` with the same version of Ray and Python, and "
            "the same RAY_AUTH_MODE and token as the head.)"
        ) from error
    return Session(str(context.address_info["gcs_address"]), False, None, before)


def check_reachable(address: str) -> None:
    """Raises ClusterUnreachable, within seconds, unless something listens where `join` would go.

    address: as given, or "" for RAY_ADDRESS; where neither is set, `join` will look for a cluster.
    Raises ValueError where it is not an address.
    """
    found = address or os.environ.get("RAY_ADDRESS") or "auto"
    if found != "auto":
        probe(*parse_address(found))


def parse_address(address: str) -> tuple[str, int]:
    """(host, port) of `host`, `host:port` or `[v6]:port`; ValueError otherwise."""
    if address.startswith("ray://"):
        raise ValueError(
            f"{address!r} is an address of Ray Client, which cannot run a search; run the command "
            f"on a host of the cluster with its head's address, host:{DEFAULT_PORT}"
        )
    host, colon, port = address.rpartition(":")
    if not colon or "]" in port or (":" in host and not host.startswith("[")):
        host, port = address, str(DEFAULT_PORT)
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"a cluster's address is host or host:port, but got {address!r}")
    return host.strip("[]"), int(port)


def probe(host: str, port: int, seconds: float = PROBE_SECONDS) -> None:
    """Raises ClusterUnreachable unless something listens there (Ray itself tries for minutes)."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        raise ClusterUnreachable(
            f"no Ray cluster answers at {host}:{port} ({error}). Start one there with `ray start "
            "--head`, give the right address (--cluster HOST:PORT or RAY_ADDRESS), or leave "
            "--cluster out to run on this machine."
        ) from error


def _local_head() -> str:
    """Address of the cluster that this host's Ray processes belong to."""
    from ray._private.services import find_gcs_addresses

    found = sorted(find_gcs_addresses())
    if len(found) == 1:
        return str(found[0])
    problem = f"several Ray clusters run here ({', '.join(found)})" if found else "no Ray runs here"
    raise ClusterUnreachable(f"{problem}; say which: --cluster HOST:PORT, or RAY_ADDRESS")


def _set_environment(values: dict[str, str | None]) -> dict[str, str | None]:
    """Set variables (None: remove) and the unset ones of `_QUIET`; returns their previous values."""
    quiet = {k: v for k, v in _QUIET.items() if k not in os.environ}
    before = {k: os.environ.get(k) for k in [*quiet, *values]}
    _restore({**quiet, **values})
    return before


def _restore(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _reread_environment() -> None:
    """Ray's native code reads RAY_* only at its import, which may have been earlier."""
    native: Any = importlib.import_module("ray._raylet")
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()


def _hush(verbose: bool) -> None:
    """Keep Ray's messages in its log files, away from a user's terminal."""
    if verbose:
        return
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    import ray._private.worker as worker

    def to_log(data: dict[str, Any], *_: Any, **__: Any) -> None:
        logging.getLogger(__name__).debug("ray: %s", " ".join(data.get("lines", [])))

    # The driver prints messages of the raylet even with log_to_driver=False.
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = to_log


def _own_folder() -> Path:
    """A folder with a short path (a socket's has at most 107 characters); removes those of dead processes."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > 30:
        base = Path("/tmp")
    base = base / f"mft-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    for old in _folders_of_the_dead(base):
        shutil.rmtree(old, ignore_errors=True)
    folder = base / f"{os.getpid()}-{secrets.token_hex(2)}"
    folder.mkdir(mode=0o700)
    return folder


def _folders_of_the_dead(base: Path) -> Iterator[Path]:
    for folder in base.iterdir():
        pid = folder.name.partition("-")[0]
        if pid.isdigit():
            with contextlib.suppress(PermissionError):
                try:
                    os.kill(int(pid), 0)
                except ProcessLookupError:
                    yield folder
