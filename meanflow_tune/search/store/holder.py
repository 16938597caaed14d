"""Who holds a lease: its file, and whether the process and the folder in it are those of this place."""

import json
import os
import secrets
import socket
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from meanflow_tune.files import read_small

LEASE_NAME = "lease.json"
LARGEST = 2**16  # bytes of lease.json


@dataclass(frozen=True)
class LeaseState:
    """The contents of lease.json. pid: None once the holder has released it.

    place: boot and process namespace of the holder, within which its pid is unique; process_start:
    clock ticks since boot, which distinguishes a reused pid; heartbeat: unix seconds; path, inode: of the
    folder that it was written for, by which a copy of the folder is recognised; None in earlier versions.
    """

    host: str
    place: str
    pid: int | None
    process_start: int | None
    epoch: int
    heartbeat: float
    path: str | None = None
    inode: str | None = None


_FIELDS = frozenset(LeaseState.__dataclass_fields__)
HOLDER = attrgetter("epoch", "host", "place", "pid")


def read_lease(folder: Path) -> LeaseState | None:
    """The lease of a study folder; None where there is none, or where it is unreadable."""
    try:
        data = json.loads(read_small(folder / LEASE_NAME, LARGEST))
        # A later version may add fields; one that this version needs is missing in a damaged file only.
        state = LeaseState(**{name: data[name] for name in _FIELDS & data.keys()})
    except (FileNotFoundError, IsADirectoryError, ValueError, TypeError, AttributeError):
        return None  # ValueError: no JSON, or no text
    except RecursionError:
        return None
    return state if _is_sound(state) else None


def _is_sound(state: LeaseState) -> bool:
    """Whether the fields, which may come from a damaged file, have their types."""
    whole = (state.epoch, *(n for n in (state.pid, state.process_start) if n is not None))
    return (
        all(type(number) is int and 0 <= number < 2**62 for number in whole)
        and isinstance(state.heartbeat, int | float)
        and all(isinstance(text, str) for text in (state.host, state.place))
        and all(isinstance(text, str | None) for text in (state.path, state.inode))
    )


def has_died(held: LeaseState) -> bool:
    """Whether the holder of a lease was a process of this host that is gone; reads only.

    False where that cannot be told from here: on another host its heartbeat has to tell.
    """
    return is_here(held) and not is_alive(held)


def is_here(held: LeaseState) -> bool:
    """Whether the holder was started in this process namespace, so that its pid can be looked up."""
    return held.host == socket.gethostname() and held.place == pid_namespace()


def is_alive(held: LeaseState) -> bool:
    """Of a holder in this process namespace."""
    pid = held.pid
    return pid is not None and held.process_start == process_start(pid) and _exists(pid)


def identity(folder: Path) -> dict[str, str]:
    """The fields of a lease by which a copy of its folder is told from the folder."""
    there = folder.stat()
    return {"path": os.path.realpath(folder), "inode": f"{there.st_dev} {there.st_ino}"}


def is_copy(folder: Path, held: LeaseState) -> bool | None:
    """Whether `folder` was copied, with the lease in it, from one that its holder still has.

    None where that cannot be told: the folder is another one, and the holder's is gone. Neither a move
    on one file system nor another way to the same folder, such as a second mount, makes a copy: what is
    written here must not appear there.
    """
    own = identity(folder)
    if held.path is None or own["path"] == held.path or own["inode"] == held.inode:
        return False
    original = Path(held.path)
    there = read_lease(original)
    if there is None or there.epoch < held.epoch:
        return None
    probe = folder / f".{LEASE_NAME}.{secrets.token_hex(8)}.tmp"  # as temporary files are named
    try:
        probe.touch()
        return not (original / probe.name).exists()
    finally:
        probe.unlink(missing_ok=True)


def pid_namespace() -> str:
    """Where pids are unique: one boot of one kernel, one process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def process_start(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; None where it is dead, or without /proc."""
    fields = process_fields(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def process_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; empty where there is no such process, or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
