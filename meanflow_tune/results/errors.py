"""Errors of loading results."""


class ResultsError(ValueError):
    """There are no results to load; the message is one line that says what to do."""
