"""A connection to Ray: joining a running cluster, and leaving any."""

import importlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from meanflow_tune.cluster.connection.address import (
    RETRY_SECONDS,
    check_node_here,
    cluster_id,
    find_address,
    parse_address,
)
from meanflow_tune.cluster.connection.authentication import MODE, authenticate
from meanflow_tune.cluster.connection.command_line import hide_arguments
from meanflow_tune.cluster.connection.head_watch import (
    LOCAL_LOST_SECONDS,
    LOST_SECONDS,
    Abandon,
    HeadWatch,
)
from meanflow_tune.cluster.connection.job_environment import with_job
from meanflow_tune.cluster.errors import ClusterError, ClusterUnreachable
from meanflow_tune.cluster.shipping import stage
from meanflow_tune.training.process.freed_memory import SWITCH

# In every process of a search, whatever the user has set: a pickle in an artifact is code.
CLOSED = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
# The driver's own core must not end it when the head is silent, see `HeadWatch`.
_PATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "86400"}

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
    """A connection to Ray. address: host:port of its head; local: it ends with this process.

    token: what the head asks for; cluster: its id; notes: lines for the user; remove: what is left to do
    after the end of a private cluster.
    """

    address: str
    local: bool
    before: dict[str, str | None] = field(default_factory=dict)
    token: str = ""
    cluster: bytes | None = None
    notes: tuple[str, ...] = ()
    remove: Callable[[], None] = lambda: None
    watch: HeadWatch | None = None

    def watch_head(self, abandon: Abandon | None = None) -> HeadWatch:
        """Begin to watch the head. abandon: see `HeadWatch`."""
        host, port = parse_address(self.address)
        ask = partial(cluster_id, host, port, self.token)
        expected = ask() if self.cluster is None else self.cluster
        seconds = LOCAL_LOST_SECONDS if self.local else LOST_SECONDS
        where = "this machine" if self.local else self.address
        self.watch = HeadWatch(ask, expected, where, seconds, abandon).start()
        return self.watch

    def shutdown(self) -> None:
        """Disconnect; a private cluster ends and its files are removed.

        Not while a thread is inside Ray, whose next call would silently end this process with status 1, nor
        when the head is lost: then `end_process` does it.
        """
        if self.watch is not None:
            if self.watch.lost:
                self.watch.notice()
                leave_running([self.watch.thread])
            else:
                self.watch.stop()
        if _still_busy():
            return
        import ray

        ray.shutdown()
        restore(self.before)
        reread_environment()
        self.remove()

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


def join(
    address: str | None = None,
    verbose: bool = False,
    require_token: bool = False,
    wait: float | None = None,
    modules: Mapping[str, Path] = MappingProxyType({}),
    say: Callable[[str], None] = lambda text: None,
) -> Session:
    """Join the cluster at `address`, else at RAY_ADDRESS, else the one this host belongs to.

    require_token: refuse one that takes no token; wait: seconds for a head that does not answer, or does not
    know this host yet, of which `say` gets one line; modules: what its processes can import besides this
    package, see `shipping.stage`. Raises ClusterError, without `wait` within 10 s where no head answers, it
    refuses our token, or this host is not in its cluster.
    """
    deadline, said = time.monotonic() + (wait or 0.0), False
    while True:
        try:
            return _join(*find_address(address), verbose, require_token, modules)
        except ClusterUnreachable as error:
            if time.monotonic() >= deadline:
                raise
            if not said:
                say(f"waiting up to {wait or 0:.0f} s for the Ray cluster: {error}")
                said = True
            time.sleep(RETRY_SECONDS)


def _join(
    host: str, port: int, verbose: bool, require_token: bool, modules: Mapping[str, Path]
) -> Session:
    access = authenticate(host, port, require_token)
    check_node_here(host, port)
    before = set_environment({MODE: access.mode, **_PATIENT})
    import ray

    reread_environment()
    hide_arguments()
    hush(verbose)
    package = Path(__file__).resolve().parents[2]
    variables = {k: os.environ[k] for k in (*_QUIET, SWITCH) if k in os.environ}
    try:
        with ExitStack() as stack:
            staging = stack.enter_context(tempfile.TemporaryDirectory(prefix="mft-modules-"))
            ours = {
                "py_modules": [str(package), *stage(modules, Path(staging))],
                "env_vars": variables,
            }
            runtime_env = stack.enter_context(with_job(ours, {**CLOSED, MODE: access.mode}))
            context = ray.init(
                address=f"{host}:{port}",
                runtime_env=runtime_env,
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.CRITICAL,
            )
    except ClusterError:
        restore(before)
        raise
    except Exception as error:
        ray.shutdown()
        restore(before)
        text = " ".join(str(error).split())[:400]
        raise ClusterUnreachable(
            f"{host}:{port} answers, but Ray {ray.__version__} cannot join it from here: {text} (This "
            "host must run `ray start --address=...` with the same version of Ray and Python, and "
            "the same RAY_AUTH_MODE and token as the head.)"
        ) from error
    found = str(context.address_info["gcs_address"])
    return Session(found, False, before, access.token, access.cluster, access.notes)


def set_environment(values: dict[str, str | None]) -> dict[str, str | None]:
    """Set variables (None: remove) and the unset ones of `_QUIET`; returns their previous values."""
    quiet = {k: v for k, v in _QUIET.items() if k not in os.environ}
    changed = {**quiet, **CLOSED, **values}
    before = {k: os.environ.get(k) for k in changed}
    restore(changed)
    return before


def restore(values: dict[str, str | None]) -> None:
    """Give variables these values; None: remove."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def reread_environment() -> None:
    """Ray's native code reads RAY_* only at its import, which may have been earlier."""
    native: Any = importlib.import_module("ray._raylet")
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()


def hush(verbose: bool) -> None:
    """Unless verbose, keep Ray's messages in its log files, away from a user's terminal."""
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
