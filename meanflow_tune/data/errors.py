"""Errors of the data sets."""


class DataUnavailable(ValueError):
    """A data set cannot be read on this machine; the message names the missing part and a remedy."""
