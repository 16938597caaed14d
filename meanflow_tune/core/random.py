"""Seeds folded from their purpose, so that no draw depends on the order of earlier draws."""

import hashlib

import torch


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


GOLDEN = (5.0**0.5 - 1.0) / 2.0


def spread_draws(count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` numbers in [0, 1), float64, each uniform, and together spread evenly over [0, 1).

    Multiples of the golden ratio from a random start, modulo 1 (Weyl's sequence): of any
    consecutive ones, a share close to f lies below f.
    """
    start = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device)
    steps = torch.arange(count, dtype=torch.float64, device=generator.device)
    return (start + GOLDEN * steps) % 1.0
