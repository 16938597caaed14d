"""Base of the data sets: their settings' interface and the fingerprint of their content."""

import hashlib
from abc import abstractmethod

from torch import Tensor

from meanflow_tune.core.types import DataSplit
from meanflow_tune.settings import Member


class DataSettings(Member):
    """Base of the family: settings that load a data set into memory."""

    @abstractmethod
    def load(self) -> DataSplit:
        """The whole data set; the same settings give the same tensors and the same fingerprint.

        Raises DataUnavailable if a file or package is missing.
        """


def make_split(
    train_x: Tensor,
    train_label: Tensor | None,
    held_out_x: Tensor,
    held_out_label: Tensor | None,
    classes: int | None,
) -> DataSplit:
    """A DataSplit with the SHA-256 of its content (shapes, types and bytes) as the fingerprint."""
    digest = hashlib.sha256()
    for tensor in (train_x, train_label, held_out_x, held_out_label):
        if tensor is None:
            digest.update(b"none;")
            continue
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return DataSplit(train_x, train_label, held_out_x, held_out_label, classes, digest.hexdigest())
