"""A study in a database whose every single write is fenced, as `FencedJournal` does for a journal."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage

from meanflow_tune.files import Writing, at_once, is_full
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.passing import PassingStorage

T = TypeVar("T")


class FencedStorage(PassingStorage):
    """Passes everything on to `inner`; before a write, `fence` raises when the lease is lost.

    fence None: for reading only, and a write raises StorageError, as one does that finds no space.
    shown: the database for messages. file: of a database that is one, whose writes are made by `writing`;
    what a full disk refused the database has taken back, so that it can be written again.
    """

    def __init__(
        self,
        inner: BaseStorage,
        fence: Callable[[], None] | None,
        shown: str,
        file: Path | None = None,
        writing: Writing = at_once,
    ) -> None:
        super().__init__(inner)
        self._fence, self._shown = fence, shown
        self._file, self._writing = file, writing

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

        return fenced() if self._file is None else self._writing(fenced, self._file.parent)
