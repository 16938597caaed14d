"""A small classifier of labelled data, whose last hidden layer gives the features of samples."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, silu

from meanflow_tune.core.types import DataSplit

FEATURES = 64
_HIDDEN = 256
_EPOCHS = 20
_BATCH = 64
_LEARNING_RATE = 2e-3
_NOISE = 0.3


class _Linear(nn.Linear):
    """A linear layer that does not draw from the global random state."""

    def reset_parameters(self) -> None:
        """Nothing: `Classifier` draws the weights."""


class Classifier(nn.Module):
    """Samples x [B, *D] -> logits [B, classes], over features [B, 64].

    Initial weights are drawn from `generator` only. A state_dict can be stored and read back
    into a classifier of the same shape and classes.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, generator: Generator) -> None:
        super().__init__()
        self.first = _Linear(math.prod(shape), _HIDDEN)
        self.second = _Linear(_HIDDEN, FEATURES)
        self.last = _Linear(FEATURES, classes)
        for layer in (self.first, self.second, self.last):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)

    def features(self, x: Tensor) -> Tensor:
        """[B, *D] -> [B, 64], smooth in x."""
        return silu(self.second(silu(self.first(x.flatten(1)))))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.features(x))
        return logits


def build_classifier(data: DataSplit, seed: int = 0) -> Classifier:
    """An untrained classifier of `data`, to be trained or to take a stored state_dict.

    Raises ValueError if the data have no classes.
    """
    if data.classes is None or data.train_label is None:
        raise ValueError(
            "a classifier needs labelled data, but the data set has no classes; "
            "choose data with classes or leave the metric 'frechet_features' out"
        )
    return Classifier(data.shape, data.classes, torch.Generator().manual_seed(seed))


def train_classifier(data: DataSplit, seed: int) -> Classifier:
    """Train on data.train_x with AdamW under a cosine learning rate; on the CPU, from `seed` alone.

    Raises ValueError if the data have no classes.
    """
    model = build_classifier(data, seed)
    assert data.train_label is not None
    train_x, train_label = data.train_x.cpu(), data.train_label.cpu()
    generator = torch.Generator().manual_seed(seed)
    count = len(train_x)
    steps = _EPOCHS * math.ceil(count / _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(count, generator=generator), _BATCH):
            x = train_x[rows]
            # Noise keeps the features from hanging on single pixels.
            noisy = x + _NOISE * torch.randn(x.shape, generator=generator)
            loss = cross_entropy(model(noisy), train_label[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def features(model: Classifier, batch: int = 4096) -> Callable[[Tensor], Tensor]:
    """The function x [N, *D] -> [N, 64] for Reference.features, computed `batch` rows at a time."""

    def extract(x: Tensor) -> Tensor:
        device = next(model.parameters()).device
        with torch.no_grad():
            return torch.cat(
                [model.features(part.float().to(device)) for part in torch.split(x, batch)]
            )

    return extract
