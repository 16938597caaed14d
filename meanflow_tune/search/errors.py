"""Errors of a search that a user can act on."""

from dataclasses import dataclass

from pydantic import ValidationError

from meanflow_tune.files import Unreachable
from meanflow_tune.settings import first_fault


class StudyInUse(RuntimeError):
    """Another driver holds the study's lease.

    holder: where only its silence can show whether it is dead, as on another host.
    """

    def __init__(self, message: str, holder: "Holder | None" = None) -> None:
        super().__init__(message)
        self.holder = holder


@dataclass(frozen=True)
class Holder:
    """Who holds a lease. age: seconds since its last heartbeat; beat: that heartbeat, equal to no other;
    free_in: seconds until it counts as dead without another one.
    """

    host: str
    pid: int
    age: float
    beat: tuple[object, ...]
    free_in: float


class LeaseLost(StudyInUse):
    """Another driver took over the lease; this one must not write any more."""


class StudyChanged(RuntimeError):
    """The study was made under other terms than those now requested."""


class SearchStopped(RuntimeError):
    """Too many consecutive trials failed; the same command continues the study."""


class SpaceError(ValueError):
    """A search space is unknown, incomplete, or returned an unusable configuration."""


class StorageError(OSError):
    """The study's storage cannot be read or written."""


class UnusableDatabase(StorageError):
    """A database URL, login or driver that a user has to correct: no wait helps."""


class DatabaseDown(StorageError, Unreachable):
    """The server of the study's database does not answer now."""

    __init__ = Unreachable.__init__


def one_line(error: BaseException) -> str:
    """What an error says, in one line; of a validation error its first fault."""
    if isinstance(error, ValidationError):
        return first_fault(error)
    return " ".join(str(error).split()) or type(error).__name__


def fault_text(error: BaseException) -> str:
    """What went wrong in code of a user, in one line; the kind of error where its message needs it."""
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({'' if error.code is None else repr(error.code)})"
    if isinstance(error, ValueError):
        return one_line(error)
    text = one_line(error)
    kind = type(error).__name__
    return text if text == kind else f"{kind}: {text}"
