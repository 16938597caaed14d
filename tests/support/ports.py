"""Free ports on 127.0.0.1 for servers that a test starts."""

import os
import random
import socket


def free_ports(count: int = 2) -> int:
    """The first of `count` free ports in a row, outside 10002-19999, which Ray gives to its workers."""
    generator = random.Random(os.urandom(8))
    while True:
        first = generator.randrange(21_000, 32_000)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
