"""`--dashboard`: the Optuna dashboard on a study as it is read, so that no page can write into it.

Opened on the study's journal itself, the dashboard appends notes, and can end or delete trials and studies,
past the lease that guards the study.
"""

import errno
import logging
import os
import signal
import socket

from meanflow_tune.plan.request import EXIT_OK, EXIT_UNUSABLE, SearchRequest, UserError
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.store.manifest import Manifest
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.trials import trial_states
from meanflow_tune.search.study.relocate import find_study

HOST = "127.0.0.1"


def show_dashboard(request: SearchRequest, port: int) -> int:
    """Serve it on this machine until Ctrl-C; a running driver is not disturbed."""
    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise UserError(
            "--dashboard: the package optuna-dashboard is not installed; `pip install optuna-dashboard`."
        ) from None
    try:
        Manifest.read(request.folder)
        storage = open_storage(find_study(request.folder, request.study_storage))
        trial_states(storage, request.study)
    except StorageError as error:
        raise UserError(f"--dashboard: {error}; name it by --study and --storage.") from None
    _check_free(port)
    print(
        f"Optuna dashboard of {request.study}, for reading only: http://{HOST}:{port}/dashboard/"
        " (Ctrl-C ends it)",
        flush=True,
    )
    logging.getLogger("optuna_dashboard").setLevel(logging.ERROR)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    run_server(storage, host=HOST, port=port)
    return EXIT_OK


def _end(number: int, frame: object) -> None:
    """End at once: the server swallows an exception that is raised while it answers."""
    print(flush=True)
    os._exit(EXIT_OK)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            used = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            why = "another program uses that port" if used else str(error)
            raise UserError(
                f"--dashboard {port}: {why}; give another port, such as --dashboard {port % 60000 + 1}.",
                EXIT_UNUSABLE,
            ) from None
