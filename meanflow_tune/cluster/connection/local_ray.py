"""A private Ray on this machine, which listens on the loopback interface only and ends with this process."""

import contextlib
import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from meanflow_tune.cluster.connection.command_line import hide_arguments
from meanflow_tune.cluster.connection.ray_folder import own_folder
from meanflow_tune.cluster.connection.session import (
    Session,
    hush,
    reread_environment,
    restore,
    set_environment,
)
from meanflow_tune.cluster.errors import ClusterError
from meanflow_tune.cluster.shipping import stage

OBJECT_STORE_BYTES = 200 * 2**20
LOOPBACK = "127.0.0.1"


def start_local(
    cpus: int | None = None,
    gpus: int | None = None,
    verbose: bool = False,
    modules: Mapping[str, Path] = MappingProxyType({}),
) -> Session:
    """A private Ray on this machine, which ends with this process, also after a kill.

    modules: what its processes can import besides installed packages, see `shipping.stage`.

    Its own folder and token keep others out, and a signal to the process group of the driver does not
    reach it. Raises ClusterError where it does not start.
    """
    folder = own_folder()
    token = secrets.token_hex(32)
    shipped = folder.path / "modules"
    stage(modules, shipped)
    paths = [str(shipped), *filter(None, [os.environ.get("PYTHONPATH")])]
    before = set_environment(
        {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_AUTH_TOKEN_PATH": None,
            "RAY_ADDRESS": None,
            **({"PYTHONPATH": os.pathsep.join(paths)} if modules else {}),
            # A job of another cluster may have started us; what it injects is for that one.
            "RAY_JOB_CONFIG_JSON_ENV_VAR": None,
        }
    )
    started: list[int] = []
    import ray

    reread_environment()
    hide_arguments()
    hush(verbose)
    try:
        with _on_loopback(), _out_of_reach(started):
            context = ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.CRITICAL,
                _temp_dir=str(folder.path),
                _node_ip_address=LOOPBACK,
            )
    except Exception as error:
        restore(before)
        reread_environment()
        text = " ".join(str(error).split())[:400]
        raise ClusterError(
            f"Ray does not start on this machine: {text} (It waits for 30 s: is the machine overloaded, or "
            f"its memory full? Ray's logs are in {folder.path}.)"
        ) from error
    folder.path.chmod(0o700)  # which Ray has opened to all
    address = str(context.address_info["gcs_address"])
    # Otherwise Ray's tools in our processes look for any Ray on this machine.
    os.environ["RAY_ADDRESS"] = address

    def remove() -> None:
        for session in started:
            _end_session(session)
        folder.release()

    return Session(address, True, before, token=token, notes=folder.notes, remove=remove)


@contextmanager
def _replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray take 127.0.0.1 as this host's address, which it replaces by the one of a network otherwise.

    With it, all its servers listen on the loopback interface only.
    """
    from ray._private import services

    def as_it_is(host: str) -> str:
        return host

    with _replaced(services, "resolve_ip_for_localhost", as_it_is):
        yield


@contextmanager
def _out_of_reach(started: list[int]) -> Iterator[None]:
    """Ray's processes get their own sessions, added to `started`, and block SIGTERM.

    scancel, systemctl stop and timeout send it to the whole process group or control group: the driver
    then stops at a safe point, for which Ray must be up. Workers inherit both.
    """
    from ray._private import services

    class Process(services.ConsolePopen):
        def __init__(
            self, *arguments: Any, preexec_fn: Callable[[], None] | None = None, **more: Any
        ) -> None:
            def prepare() -> None:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
                if preexec_fn is not None:
                    preexec_fn()

            super().__init__(*arguments, preexec_fn=prepare, start_new_session=True, **more)
            started.append(self.pid)

        def terminate(self) -> None:
            """Since it would not notice a SIGTERM."""
            self.kill()

    with _replaced(services, "ConsolePopen", Process):
        yield


def _end_session(leader: int) -> None:
    """Kill what is left of a session, such as Ray's agents, which outlive a killed raylet for a minute."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(process.name)) == leader:
                os.kill(int(process.name), signal.SIGKILL)
