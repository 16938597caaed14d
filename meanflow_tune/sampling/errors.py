"""Errors of loading a student that a user can act on."""


class StudentError(ValueError):
    """A source gives no student; one line that names it, and what to do."""
