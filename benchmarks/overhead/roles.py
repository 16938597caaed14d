"""Processor and memory of the processes of a search, by what they do (Linux)."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overhead.processes import process_table

_PROC = Path("/proc")
# Ray names the processes of actors by their classes.
ACTORS = {"ray::Broker": "broker", "ray::Relays": "relays", "ray::Speaker": "slots"}
DRIVER, REST = "driver", "ray"


@dataclass(frozen=True)
class Use:
    """seconds: of processor so far; waited: seconds in which its threads waited for one; mib: of memory,
    pages that several processes share counted in parts."""

    seconds: float = 0.0
    waited: float = 0.0
    mib: float = 0.0

    def __add__(self, other: "Use") -> "Use":
        return Use(self.seconds + other.seconds, self.waited + other.waited, self.mib + other.mib)


def uses(root: int) -> dict[str, Use]:
    """By role: `driver` (the process `root`), `broker`, `relays`, `slots`, and `ray`, the rest below root."""
    table = process_table()
    found = dict.fromkeys((DRIVER, *ACTORS.values(), REST), Use())
    for pid in _family(table, root):
        with contextlib.suppress(OSError):  # it has ended
            role = DRIVER if pid == root else _role(pid)
            found[role] += Use(table[pid][2], _waited(pid), _memory(pid))
    return found


def idle_seconds() -> float:
    """Processor seconds in which the machine had nothing to do, summed over its processors."""
    fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()
    return int(fields[4]) / os.sysconf("SC_CLK_TCK")


def _family(table: Mapping[int, tuple[int, int, float]], root: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in table.items():
        children.setdefault(parent, []).append(pid)
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        yield pid


def _role(pid: int) -> str:
    command = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    return next((role for name, role in ACTORS.items() if command.startswith(name)), REST)


def _waited(pid: int) -> float:
    """Nanoseconds on the run queue are the second field."""
    return sum(
        int((task / "schedstat").read_text().split()[1]) / 1e9
        for task in (_PROC / str(pid) / "task").iterdir()
    )


def _memory(pid: int) -> float:
    for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0
