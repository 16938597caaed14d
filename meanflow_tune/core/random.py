"""Seeds folded from their purpose, and draws that are a function of a row alone.

No draw depends on the order of earlier draws, and none of a batch on the rows that other ranks draw.
"""

import hashlib
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

# Steps of `RowDraws.spread`, rationally independent of each other and of 1.
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
SILVER = math.sqrt(2.0) - 1.0


def fold(seed: int, *parts: int | str) -> int:
    """A seed in [0, 2^63) that is a hash of `seed` and `parts`; 1 and "1" are different parts."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *parts):
        text = f"{'s' if isinstance(part, str) else 'i'}{part}".encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1


def make_generator(
    seed: int, *parts: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A new generator on `device`, seeded by `fold(seed, *parts)`."""
    return torch.Generator(device=device).manual_seed(fold(seed, *parts))


class RowDraws:
    """Random numbers of some rows of a batch: functions of (seed, purpose, row, column) only.

    seed: of the batch; rows: int64 [n], indices into the batch, on the device of the draws; words: how
    many words of 32 random bits each purpose takes per row. A rank draws its own rows, and gets what one
    process that draws all of them has there. The numbers come from the counter-based generator
    Philox4x32-10 (Salmon et al., SC 2011), in one call for all purposes: on a small network's batch a
    call costs more than its arithmetic.
    """

    def __init__(self, seed: int, rows: Tensor, words: Mapping[str, int]) -> None:
        self.seed, self.rows = seed, rows
        self._counts = {purpose: -(-count // 4) * 4 for purpose, count in words.items()}
        self._words = self._draw()

    def uniform(self, purpose: str) -> Tensor:
        """Independent draws, uniform in [0, 1), float64 [n, words / 2] with 53 random bits each."""
        pairs = self._of(purpose).reshape(len(self.rows), -1, 2)
        whole = (pairs[..., 0] >> 5) * 2**26 + (pairs[..., 1] >> 6)
        return whole.double() * 2.0**-53

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Independent standard normal draws, float32 [n, *shape], by Box and Muller's transform.

        They take one word each. At most 6.7 in absolute value: the uniform numbers below have 32 bits.
        """
        pairs = self._of(purpose).reshape(len(self.rows), -1, 2)
        radius = torch.sqrt(-2.0 * torch.log((pairs[..., 0].double() + 0.5) * 2.0**-32)).float()
        angle = pairs[..., 1].float() * (2.0 * math.pi * 2.0**-32)
        both = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
        return both.reshape(len(self.rows), -1)[:, : math.prod(shape)].reshape(-1, *shape)

    def spread(self, purpose: str, step: float) -> Tensor:
        """Float64 [n] in [0, 1): uniform each, but spread evenly over consecutive rows. Takes no words.

        Multiples of an irrational `step` from a random start, modulo 1 (Weyl's sequence): of any
        consecutive rows, a share close to f lies below f. Two sequences of one batch need steps that
        are rationally independent (GOLDEN and SILVER), or one would decide the other.
        """
        start = fold(self.seed, purpose) * 2.0**-63
        return (start + step * self.rows.double()) % 1.0

    def _of(self, purpose: str) -> Tensor:
        names = list(self._counts)
        start = sum(self._counts[name] for name in names[: names.index(purpose)])
        return self._words[:, start : start + self._counts[purpose]]

    def _draw(self) -> Tensor:
        """The words of all purposes, int64 [n, words]."""
        device, row = self.rows.device, self.rows.unsqueeze(1)
        block, purpose = _columns(tuple(self._counts.items()), device)
        counter: list[Any] = [block, row & _MASK, row >> 32, purpose]
        if device.type == "cpu":
            # On small arrays NumPy's operators cost a third of torch's.
            counter = [part.numpy() for part in counter]
        words = philox(counter, (self.seed & _MASK, self.seed >> 32))
        return torch.stack([torch.as_tensor(word) for word in words], -1).reshape(len(row), -1)


@cache
def _columns(counts: tuple[tuple[str, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each block of four words: its index within its purpose, and a hash of the purpose, int64 [1, *]."""
    blocks = [torch.arange(count // 4) for _, count in counts]
    hashes = [torch.full((count // 4,), fold(0, purpose) & _MASK) for purpose, count in counts]
    block, purpose = torch.cat(blocks).unsqueeze(0), torch.cat(hashes).unsqueeze(0)
    return block.to(device), purpose.to(device)


def philox(counter: list[Any], key: tuple[int, int]) -> list[Any]:
    """Philox4x32-10: four words of 32 bits from a counter of four and a key of two.

    counter: arrays or tensors of int64 that hold words below 2^32 and broadcast. Products of 64 bits
    wrap around, and their halves are read through a mask.
    """
    a, b, c, d = counter
    low, high = key
    for _ in range(_ROUNDS):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, c = ((second >> 32) & _MASK) ^ b ^ low, ((first >> 32) & _MASK) ^ d ^ high
        b, d = second & _MASK, first & _MASK
        low, high = (low + _WEYL[0]) & _MASK, (high + _WEYL[1]) & _MASK
    return [a, b, c, d]
