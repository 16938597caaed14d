"""Seeds folded from what they are for, so that no draw depends on the order of earlier draws."""

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
