"""Taking the lease of a study, and what a user sees while a holder that may be dead is waited for."""

import time
from contextlib import suppress
from functools import partial

from rich.status import Status

from meanflow_tune.files import OnlyShown
from meanflow_tune.plan.request import EXIT_IN_USE, SearchRequest, UserError
from meanflow_tune.report.characters import one_line
from meanflow_tune.report.live import View
from meanflow_tune.search.errors import Holder, StudyInUse
from meanflow_tune.search.store.database_lease import AnyLease
from meanflow_tune.search.store.lease_wait import wait_for_lease

SAID_SECONDS = 10.0  # between two lines where there is no terminal


def take_lease(request: SearchRequest, view: View) -> AnyLease:
    """The lease of the request's study. Raises UserError while a live driver holds it, StorageError."""
    countdown = _Countdown(request.study, view)
    try:
        return wait_for_lease(
            request.folder,
            request.study,
            request.study_storage,
            countdown.tell,
            take_over=request.take_over,
        )
    except StudyInUse as error:
        refused = "--take-over: the holder is not dead: " if request.take_over else ""
        raise UserError(f"{refused}{error}", EXIT_IN_USE) from error
    finally:
        countdown.close()


class _Countdown:
    """One line that counts down on a terminal; elsewhere one per SAID_SECONDS."""

    def __init__(self, study: str, view: View) -> None:
        self._study, self._view = study, view
        self._status: Status | None = None
        self._said: float | None = None
        self._shown = OnlyShown(view.error)

    def tell(self, holder: Holder, left: float) -> None:
        """Say for whom the search waits, and for how long at most."""
        text = one_line(
            f"waiting for study {self._study}: process {holder.pid} on host {holder.host} holds it, with"
            f" its last heartbeat {max(holder.age, 0.0):.0f} s ago; free in {left:.0f} s if it stays silent"
        )
        self._shown("say what the search waits for", partial(self._tell, text), None)

    def _tell(self, text: str) -> None:
        if self._view.interactive:
            if self._status is None:
                self._status = self._view.console.status("")
                self._status.start()
            self._status.update(text)
        elif self._said is None or time.monotonic() - self._said >= SAID_SECONDS:
            self._said = time.monotonic()
            self._view.event(text)

    def close(self) -> None:
        """Remove the line."""
        if self._status is not None:
            with suppress(OSError, ValueError):
                self._status.stop()
