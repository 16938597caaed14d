"""Errors of the data sets."""


class DataUnavailable(ValueError):
    """A data set cannot be read on this machine; the message names what is missing and a remedy."""
