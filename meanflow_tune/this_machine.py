"""What this process may use of its machine: processors, memory and GPUs, not what the machine has.

A batch system or a container grants a share by affinity, by a cgroup's limits and by CUDA_VISIBLE_DEVICES;
`os.cpu_count` and `SC_PHYS_PAGES` ignore all of them.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")
# Set by Slurm in every step of a job, and not enforced where it confines no cores: an upper bound too.
SLURM = "SLURM_CPUS_ON_NODE"
VISIBLE = "CUDA_VISIBLE_DEVICES"
MIG = "MIG-"
NO_LIMIT = 1 << 60  # bytes; version 1 of cgroups writes a number above it where there is none


@dataclass(frozen=True)
class _Group:
    """A control group that this process is in, from its own folder up to the mount. version: 1 or 2."""

    folders: tuple[Path, ...]
    version: int


def processors(root: Path = ROOT) -> int:
    """Processors that this process may keep busy: the least of affinity, cgroup quota and Slurm's share.

    A quota of 1.5 is one. root: of /proc and /sys, for tests.
    """
    bounds = [float(_allowed(root))]
    bounds += (quota for group in _groups(root, "cpu") for quota in _quotas(group))
    with suppress(ValueError):
        bounds.append(float(os.environ.get(SLURM, "")))
    positive = [bound for bound in bounds if bound > 0]
    return max(1, int(min(positive, default=1.0) + 1e-6))


def memory(root: Path = ROOT) -> float | None:
    """Bytes that this process and its children may hold together; None where that is unknown."""
    bounds = [float(limit) for group in _groups(root, "memory") for limit in _limits(group)]
    if (whole := _physical(root)) is not None:
        bounds.append(whole)
    return min(bounds, default=None)


def visible_gpus(environment: Mapping[str, str] | None = None) -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES names, numbers or UUIDs (GPU-…, MIG-…); None where it is not set.

    As CUDA reads it: what follows a negative number does not count, so that `-1` and "" name none.
    """
    text = (os.environ if environment is None else environment).get(VISIBLE)
    if text is None:
        return None
    found: list[str] = []
    for word in (part.strip() for part in text.split(",")):
        if not word or word.startswith("-") or word in ("NoDevFiles", "void", "none"):
            break
        found.append(word)
    return found


def slices() -> int:
    """GPU slices (MIG) that CUDA_VISIBLE_DEVICES names; 0 where it names none, or whole GPUs."""
    return sum(name.startswith(MIG) for name in visible_gpus() or ())


def gpus() -> int:
    """GPUs that this process may use; a slice of one counts like a whole one."""
    if (named := visible_gpus()) == []:
        return 0
    if named is not None and slices():
        return len(named)  # CUDA itself shows a process one slice only, however many are named
    import torch

    return torch.cuda.device_count()


def _allowed(root: Path) -> int:
    """Processors of this process's affinity."""
    if root == ROOT and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    for line in _lines(root / "proc/self/status"):
        name, _, value = line.partition(":")
        if name == "Cpus_allowed_list":
            return sum(_length(part) for part in value.strip().split(","))
    return os.cpu_count() or 1


def _length(part: str) -> int:
    """Of `3` or `0-7`."""
    first, dash, last = part.partition("-")
    return int(last) - int(first) + 1 if dash else 1


def _groups(root: Path, controller: str) -> Iterator[_Group]:
    """Where the limits of one controller are; a machine may have both versions mounted."""
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        version = 1 if names else 2
        if version == 1 and controller not in names.split(","):
            continue
        for top, mount in _mounts(root, controller, version):
            # In a container the mount may begin below the path that the kernel tells.
            inner = PurePosixPath(path)
            inner = inner.relative_to(top) if inner.is_relative_to(top) else PurePosixPath()
            own = mount / str(inner).lstrip("/")
            above = [own, *own.parents]
            if mount in above:
                yield _Group(tuple(above[: above.index(mount) + 1]), version)


def _mounts(root: Path, controller: str, version: int) -> Iterator[tuple[str, Path]]:
    """(path within the file system, folder) of each mounted cgroup file system of this controller."""
    for line in _lines(root / "proc/self/mountinfo"):
        place, dash, kind = line.partition(" - ")
        fields, kinds = place.split(), kind.split()
        if not dash or len(fields) < 5 or len(kinds) < 3:
            continue
        named = kinds[0] == "cgroup" and controller in kinds[2].split(",")
        if named if version == 1 else kinds[0] == "cgroup2":
            yield _unescaped(fields[3]), root / _unescaped(fields[4]).lstrip("/")


def _unescaped(text: str) -> str:
    r"""mountinfo writes a space as `\040`."""
    for code, sign in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, sign)
    return text


def _quotas(group: _Group) -> Iterator[float]:
    """Processors that each level of the hierarchy grants, where it limits them."""
    for folder in group.folders:
        with suppress(ValueError, IndexError, ZeroDivisionError):
            if group.version == 2:
                quota, period = _lines(folder / "cpu.max")[0].split()
            else:
                quota = _lines(folder / "cpu.cfs_quota_us")[0]
                period = _lines(folder / "cpu.cfs_period_us")[0]
            if int(quota) > 0:  # else "max", or -1
                yield int(quota) / int(period)


def _limits(group: _Group) -> Iterator[int]:
    """Bytes that each level of the hierarchy grants, where it limits them."""
    names = ("memory.max", "memory.high") if group.version == 2 else ("memory.limit_in_bytes",)
    for folder in group.folders:
        for name in names:
            with suppress(ValueError, IndexError):
                limit = int(_lines(folder / name)[0])
                if 0 < limit < NO_LIMIT:
                    yield limit


def _physical(root: Path) -> float | None:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            return float(line.split()[1]) * 1024
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        return None


def _lines(path: Path) -> list[str]:
    """Of a file of the kernel; none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
