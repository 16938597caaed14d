"""Seeds folded from their purpose, and draws that are a function of a row alone.

No draw depends on the order of earlier draws, and none of a batch on the rows that other ranks draw.
"""

import hashlib
import math
from dataclasses import dataclass
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


@dataclass(frozen=True)
class RowDraws:
    """Random numbers of some rows of a batch: functions of (seed, purpose, row, column) only.

    seed: of the batch; rows: int64 [n], indices into the batch, on the device of the draws. A rank
    draws its own rows, and gets what one process that draws all of them has there. The numbers come
    from the counter-based generator Philox4x32-10 (Salmon et al., SC 2011), with the purpose in its
    key and row and column in its counter.
    """

    seed: int
    rows: Tensor

    def uniform(self, purpose: str, count: int) -> Tensor:
        """Independent draws, uniform in [0, 1), float64 [n, count] with 53 random bits each."""
        words = self._words(purpose, -(-count // 2)).reshape(len(self.rows), -1, 2)
        whole = (words[..., 0] >> 5) * 2**26 + (words[..., 1] >> 6)
        return (whole.double() * 2.0**-53)[:, :count]

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Independent standard normal draws, float32 [n, *shape], by Box and Muller's transform.

        At most 6.7 in absolute value: the uniform numbers below it have 32 bits.
        """
        count = math.prod(shape)
        words = self._words(purpose, -(-count // 4)).reshape(len(self.rows), -1, 2).double()
        radius = torch.sqrt(-2.0 * torch.log((words[..., 0] + 0.5) * 2.0**-32))
        angle = words[..., 1] * (2.0 * math.pi * 2.0**-32)
        both = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
        return both.reshape(len(self.rows), -1)[:, :count].float().reshape(-1, *shape)

    def spread(self, purpose: str, step: float) -> Tensor:
        """Float64 [n] in [0, 1): uniform each, but spread evenly over consecutive rows.

        Multiples of an irrational `step` from a random start, modulo 1 (Weyl's sequence): of any
        consecutive rows, a share close to f lies below f. Two sequences of one batch need steps that
        are rationally independent (GOLDEN and SILVER), or one would decide the other.
        """
        start = fold(self.seed, purpose) * 2.0**-63
        return (start + step * self.rows.double()) % 1.0

    def _words(self, purpose: str, blocks: int) -> Tensor:
        """Random words of 32 bits, int64 [n, 4 · blocks]."""
        key = fold(self.seed, purpose)
        n = len(self.rows)
        block = torch.arange(blocks, device=self.rows.device).repeat(n)
        row = self.rows.repeat_interleave(blocks)
        counter: list[Any] = [block, row & _MASK, row >> 32, torch.zeros_like(row)]
        if self.rows.device.type == "cpu":
            # On small arrays NumPy's operators cost a third of torch's.
            counter = [part.numpy() for part in counter]
        words = [torch.as_tensor(word) for word in philox(counter, (key & _MASK, key >> 32))]
        return torch.stack(words, dim=1).reshape(n, 4 * blocks)


def philox(counter: list[Any], key: tuple[int, int]) -> list[Any]:
    """Philox4x32-10: four words of 32 bits from a counter of four and a key of two.

    counter: arrays or tensors of int64 that hold words below 2^32. Products of 64 bits wrap around,
    and their halves are read through a mask.
    """
    a, b, c, d = counter
    low, high = key
    for _ in range(_ROUNDS):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, c = ((second >> 32) & _MASK) ^ b ^ low, ((first >> 32) & _MASK) ^ d ^ high
        b, d = second & _MASK, first & _MASK
        low, high = (low + _WEYL[0]) & _MASK, (high + _WEYL[1]) & _MASK
    return [a, b, c, d]
