"""A study in a database whose every single write is fenced, as `FencedJournal` does for a journal."""

from collections.abc import Callable

from optuna.storages import BaseStorage

from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.passing import PassingStorage


class FencedStorage(PassingStorage):
    """Passes everything on to `inner`; before a write, `fence` raises when the lease is lost.

    fence None: for reading only, and a write raises StorageError.
    """

    def __init__(self, inner: BaseStorage, fence: Callable[[], None] | None, shown: str) -> None:
        super().__init__(inner)
        self._fence, self._shown = fence, shown

    def _before_write(self) -> None:
        if self._fence is None:
            raise StorageError(f"{self._shown} was opened for reading only")
        self._fence()
