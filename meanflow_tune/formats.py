"""The version of the files of a study, so that another version of this package says what it cannot read.

1: files without a version, all of which this version reads; a driver that continues their study
writes version 2. 2: the version itself, enqueued trials, and trials that a user stopped.
"""

from collections.abc import Mapping
from typing import Any

FORMAT = 2
KEY = "format"


class FormatError(ValueError):
    """A file was made by a newer version of this package, or its version is no version."""


def check_format(found: object, what: str) -> int:
    """The version `found` of `what`, None standing for the first. Raises FormatError unless it is known."""
    if found is None:
        return 1
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise FormatError(f"{what} has the format {found!r}, which is no version; is it damaged?")
    if found > FORMAT:
        raise FormatError(
            f"{what} was made by a newer version (format {found}; this one reads up to {FORMAT}); update"
            " meanflow_tune to use it"
        )
    return found


def check_format_of(data: Mapping[str, Any], what: str) -> int:
    """The same of a mapping that may hold a version. Raises FormatError."""
    return check_format(data.get(KEY), what)
