"""Seeds folded from the purpose of a draw, so that no draw depends on the order of others."""

import hashlib


def draw_seed(seed: int, number: int, purpose: str) -> int:
    """A 32-bit seed (what NumPy's RandomState takes) from search seed, trial number and purpose."""
    text = f"{seed}/{number}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")
