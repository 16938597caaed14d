"""A study in a database whose every single write is fenced, as `FencedJournal` does for a journal."""

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.files import WritePolicy, is_full, write_once
from meanflow_tune.search.errors import StorageError

T = TypeVar("T")


class StorageProxy(BaseStorage):
    """Every read and write goes to `inner`, the writes by way of `_write`."""

    def __init__(self, inner: BaseStorage) -> None:
        self._inner = inner

    def _write(self, call: Callable[[], T]) -> T:
        """Make one write, or raise where nothing may be written."""
        return call()

    # ---- writes -----------------------------------------------------------------------------

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        return self._write(lambda: self._inner.create_new_study(directions, study_name))

    def delete_study(self, study_id: int) -> None:
        self._write(lambda: self._inner.delete_study(study_id))

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._inner.set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._inner.set_study_system_attr(study_id, key, value))

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        return self._write(lambda: self._inner.create_new_trial(study_id, template_trial))

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        self._write(
            lambda: self._inner.set_trial_param(
                trial_id, param_name, param_value_internal, distribution
            )
        )

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        return self._write(lambda: self._inner.set_trial_state_values(trial_id, state, values))

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        self._write(
            lambda: self._inner.set_trial_intermediate_value(trial_id, step, intermediate_value)
        )

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._inner.set_trial_user_attr(trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._inner.set_trial_system_attr(trial_id, key, value))

    # ---- reads ------------------------------------------------------------------------------

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._inner.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._inner.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._inner.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._inner.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._inner.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        return self._inner.get_all_studies()

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._inner.get_trial(trial_id)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._inner.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def get_trial_number_from_id(self, trial_id: int) -> int:
        return self._inner.get_trial_number_from_id(trial_id)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        return self._inner.get_all_trials(study_id, deepcopy, states)

    def remove_session(self) -> None:
        self._inner.remove_session()


class FencedStorage(StorageProxy):
    """Passes everything on to `inner`; before a write, `fence` raises when the lease is lost.

    fence None: for reading only, and a write raises StorageError, as one does that finds no space.
    shown: the database for messages. file: of a database that is one, whose writes are made by
    `write_policy`; what a full disk refused the database has taken back, so that it can be repeated.
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
