"""What other terminals ask of a study, applied by its driver: trials to stop and to enqueue."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from meanflow_tune.plan.enqueue import check_params
from meanflow_tune.plan.plan import Plan
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.study.inbox import Inbox, UserRequest
from meanflow_tune.search.study.ledger import Ledger

log = logging.getLogger(__name__)


class UserRequests:
    """The inbox of a search, for its ledger and its stages. say: one line for a user.

    A request is removed once the study holds its effect; see `search.study.inbox`.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._plan, self._say = plan, say
        self._inbox = Inbox(plan.request.folder)
        self._checked: dict[str, str] = {}  # key -> why it cannot be enqueued, "" if it can
        self._told: set[str] = set()

    def enqueued(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Keys and parameters of the trials asked for, oldest first."""
        usable = (request for request in self._waiting() if request.kind == "enqueue")
        return [(request.key, request.params) for request in usable if not self._fault(request)]

    def apply(self, ledger: Ledger, ended: Callable[[int], None]) -> None:
        """Apply what waits; `ended` gets each trial that this ended. Raises what the ledger raises."""
        waiting = self._waiting()
        if not waiting:
            return
        present = ledger.enqueued_keys()
        for request in waiting:
            if request.fault:
                self._refuse(request, request.fault)
            elif request.kind == "stop":
                self._stop(request, ledger, ended)
            elif request.key in present:
                self._remove(request)
            elif fault := self._fault(request):
                self._refuse(request, fault)
            elif request.key not in self._told:
                self._told.add(request.key)
                self._say(f"asked for: {request}")

    def _stop(self, request: UserRequest, ledger: Ledger, ended: Callable[[int], None]) -> None:
        assert request.trial is not None
        try:
            has_ended = ledger.stop(request.trial)
        except StorageError:
            raise
        except ValueError as error:
            self._refuse(request, str(error))
            return
        self._remove(request)
        if has_ended:
            ended(request.trial)
        else:
            self._say(f"trial {request.trial}: a user stops it; it ends at its next safe point")

    def _fault(self, request: UserRequest) -> str:
        """Why the space does not take the parameters."""
        if request.key not in self._checked:
            try:
                check_params(self._plan.suggest, request.params)
                self._checked[request.key] = ""
            except ValueError as error:
                self._checked[request.key] = str(error)
        return self._checked[request.key]

    def _waiting(self) -> list[UserRequest]:
        return self._guarded(self._inbox.waiting, "read") or []

    def _remove(self, request: UserRequest) -> None:
        self._guarded(lambda: self._inbox.remove(request), "remove")

    def _refuse(self, request: UserRequest, reason: str) -> None:
        if request.key not in self._told:
            self._told.add(request.key)
            self._say(f"refused: {request} ({reason})")
        self._guarded(lambda: self._inbox.refuse(request, reason), "move")

    def _guarded(self, call: Callable[[], Any], what: str) -> Any:
        """An inbox that cannot be used ends no search: what stays in it is tried again."""
        try:
            return call()
        except OSError as error:
            if what not in self._told:
                self._told.add(what)
                log.warning("cannot %s the requests in %s: %s", what, self._inbox.folder, error)
            return None
