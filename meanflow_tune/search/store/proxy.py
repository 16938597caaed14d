"""Storages that forward to another one: `StorageProxy` everything, `FencedStorage` with a fence.

`FencedStorage` does for a database what `FencedJournal` does for a journal.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage

from meanflow_tune.files import WritePolicy, is_full, write_once
from meanflow_tune.search.errors import StorageError

P = ParamSpec("P")
T = TypeVar("T")


def _forward(
    method: Callable[Concatenate[Any, P], T], write: bool = False
) -> Callable[Concatenate["StorageProxy", P], T]:
    """The same method of the inner storage, through `StorageProxy._read` or `_write`."""
    name = method.__name__

    def forward(self: "StorageProxy", /, *args: P.args, **kwargs: P.kwargs) -> T:
        call: Callable[..., T] = getattr(self._inner, name)
        make = self._write if write else self._read
        return make(lambda: call(*args, **kwargs))

    return forward


class StorageProxy(BaseStorage):
    """Forwards every call to `inner`; reads go through `_read`, writes through `_write`."""

    def __init__(self, inner: BaseStorage) -> None:
        self._inner = inner

    def _read(self, call: Callable[[], T]) -> T:
        """Perform one read."""
        return call()

    def _write(self, call: Callable[[], T]) -> T:
        """Perform one write, or raise where writing is not allowed."""
        return call()

    create_new_study = _forward(BaseStorage.create_new_study, write=True)
    delete_study = _forward(BaseStorage.delete_study, write=True)
    set_study_user_attr = _forward(BaseStorage.set_study_user_attr, write=True)
    set_study_system_attr = _forward(BaseStorage.set_study_system_attr, write=True)
    create_new_trial = _forward(BaseStorage.create_new_trial, write=True)
    set_trial_param = _forward(BaseStorage.set_trial_param, write=True)
    set_trial_state_values = _forward(BaseStorage.set_trial_state_values, write=True)
    set_trial_intermediate_value = _forward(BaseStorage.set_trial_intermediate_value, write=True)
    set_trial_user_attr = _forward(BaseStorage.set_trial_user_attr, write=True)
    set_trial_system_attr = _forward(BaseStorage.set_trial_system_attr, write=True)

    get_study_id_from_name = _forward(BaseStorage.get_study_id_from_name)
    get_study_name_from_id = _forward(BaseStorage.get_study_name_from_id)
    get_study_directions = _forward(BaseStorage.get_study_directions)
    get_study_user_attrs = _forward(BaseStorage.get_study_user_attrs)
    get_study_system_attrs = _forward(BaseStorage.get_study_system_attrs)
    get_all_studies = _forward(BaseStorage.get_all_studies)
    get_trial = _forward(BaseStorage.get_trial)
    get_trial_id_from_study_id_trial_number = _forward(
        BaseStorage.get_trial_id_from_study_id_trial_number
    )
    get_trial_number_from_id = _forward(BaseStorage.get_trial_number_from_id)
    get_all_trials = _forward(BaseStorage.get_all_trials)
    remove_session = _forward(BaseStorage.remove_session)


class FencedStorage(StorageProxy):
    """Before each write, `fence` raises when the lease is lost.

    fence None: opened for reading only; a write raises StorageError, as does one on a full disk.
    shown: the database in messages. file: where a file holds the database, its writes go through
    `write_policy`; the database rolls back what a full disk refused, so that it can be repeated.
    """

    def __init__(
        self,
        inner: BaseStorage,
        fence: Callable[[], None] | None,
        shown: str,
        file: Path | None = None,
        write_policy: WritePolicy = write_once,
    ) -> None:
        super().__init__(inner)
        self._fence, self._shown = fence, shown
        self._file, self._write_policy = file, write_policy

    def _write(self, call: Callable[[], T]) -> T:
        fence = self._fence
        if fence is None:
            raise StorageError(f"{self._shown} was opened for reading only")

        def fenced() -> T:
            fence()
            try:
                return call()
            except StorageInternalError as error:
                if not is_full(error):
                    raise
                raise StorageError(
                    f"cannot write {self._shown}: its disk is full; free some space there, then run the"
                    " same command again"
                ) from error

        return fenced() if self._file is None else self._write_policy(fenced, self._file.parent)
