"""Whether products of float32 matrices may be computed in TF32: on GPUs, with ten bits of mantissa."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Within, matrix products and convolutions in float32 are computed in TF32, or else in full.

    Torch's own default is TF32 for convolutions only. Processors have none, and compute in full.
    """
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matrices.allow_tf32, convolutions.allow_tf32
    matrices.allow_tf32 = convolutions.allow_tf32 = tf32
    try:
        yield
    finally:
        matrices.allow_tf32, convolutions.allow_tf32 = before
