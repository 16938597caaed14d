"""On which addresses a process listens, from /proc."""

import contextlib
import ipaddress
import os
from pathlib import Path

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def listening(pid: int) -> list[tuple[Address, int]]:
    """Addresses and ports of a process's listening TCP sockets; an IPv4 address in IPv6 as such."""
    sockets = set()
    with contextlib.suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(each))
    found = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                    text, _, port = words[1].partition(":")
                    found.append((_address(text), int(port, 16)))
    return found


def _address(text: str) -> Address:
    # In words of 32 bits, each in the machine's order.
    raw = b"".join(bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8))
    host = ipaddress.ip_address(raw)
    return getattr(host, "ipv4_mapped", None) or host
