"""1,797 handwritten digits of 8 x 8 pixels, included in scikit-learn (no download)."""

from typing import Literal

import torch
from pydantic import Field

from meanflow_tune.core.types import DataSplit
from meanflow_tune.data.base import DataSettings, make_split
from meanflow_tune.data.errors import DataUnavailable


class Digits(DataSettings):
    """Samples [1, 8, 8] in [-1, 1], ten classes.

    held_out: number of images kept for metrics, every class by its share; seed: of the split.
    """

    kind: Literal["digits"] = "digits"
    held_out: int = Field(360, ge=10, le=1787)
    seed: int = Field(0, ge=0, lt=2**32)

    def load(self) -> DataSplit:
        try:
            from sklearn.datasets import load_digits
            from sklearn.model_selection import train_test_split
        except ImportError as error:
            raise DataUnavailable(
                "data kind 'digits' needs the package scikit-learn; run `pip install scikit-learn`"
            ) from error
        try:
            pixels, labels = load_digits(return_X_y=True)
        except OSError as error:
            raise DataUnavailable(
                f"data kind 'digits' cannot read scikit-learn's file of digits ({error}); "
                "run `pip install --force-reinstall scikit-learn`"
            ) from error
        train, held_out, train_label, held_out_label = train_test_split(
            pixels, labels, test_size=self.held_out, random_state=self.seed, stratify=labels
        )
        images = [
            torch.as_tensor(part, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
            for part in (train, held_out)
        ]
        classes = [
            torch.as_tensor(part, dtype=torch.int64) for part in (train_label, held_out_label)
        ]
        return make_split(images[0], classes[0], images[1], classes[1], classes=10)
