"""Errors of a search that a person can act on, with the exit status of each."""

from typing import ClassVar

from pydantic import ValidationError

from meanflow_tune.settings import first_fault


class StudyInUse(RuntimeError):
    """Another driver holds the study's lease."""

    exit_code: ClassVar[int] = 4


class LeaseLost(StudyInUse):
    """This driver's lease was taken over by another one; nothing more may be written."""


class StudyChanged(RuntimeError):
    """The study on disk was made under different terms than the ones now asked for."""

    exit_code: ClassVar[int] = 2


class SearchStopped(RuntimeError):
    """Trial after trial failed; the study is kept, and the same command goes on."""

    exit_code: ClassVar[int] = 3


class SpaceError(ValueError):
    """A search space is unknown, incomplete, or produced an unusable configuration."""

    exit_code: ClassVar[int] = 2


class StorageError(OSError):
    """The study's storage cannot be read or written."""

    exit_code: ClassVar[int] = 5


def one_line(error: BaseException) -> str:
    """What an error says, in one line; of a validation error its first fault."""
    if isinstance(error, ValidationError):
        return first_fault(error)
    return " ".join(str(error).split()) or type(error).__name__
