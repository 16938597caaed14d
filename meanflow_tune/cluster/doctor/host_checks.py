"""Findings from what each host says of itself. Without Ray."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from meanflow_tune.cluster.doctor.diagnosis import Finding
from meanflow_tune.cluster.doctor.host_facts import TESTED, HostFacts, differing_versions

GIB = 2**30
FEW_OPEN_FILES = 4096
LEAST_SPACE, LITTLE_SPACE = GIB // 4, 5 * GIB
LITTLE_SHARED_MEMORY = GIB // 4
CLOCK_SECONDS = 2.0  # beyond which times of hosts cannot be compared


@dataclass(frozen=True)
class Answer:
    """asked, answered: the driver's clock before and after; gpus: how many Ray counts."""

    host: str
    facts: HostFacts
    asked: float
    answered: float
    gpus: float = 0.0


def check_host(answer: Answer, nonce: str, ours: HostFacts, folder: Path) -> Iterator[Finding]:
    """Findings of one host, good ones too. ours: the driver's own facts."""
    yield _storage(answer, nonce, folder)
    yield from _space(answer, folder)
    yield _versions(answer, ours)
    yield _clock(answer)
    yield _gpus(answer)
    if ours.data or ours.data_error:
        yield _data(answer, ours)
    yield _open_files(answer)


def check_alike(answers: list[Answer]) -> Iterator[Finding]:
    """What differs between hosts, so that a trial's speed depends on where it runs."""
    kinds: dict[str, str] = {}
    for answer in answers:
        if answer.facts.gpus:
            counted: Mapping[str, int] = Counter(answer.facts.gpus)
            kinds[answer.host] = ", ".join(f"{n} x {name}" for name, n in sorted(counted.items()))
    if len(set(kinds.values())) > 1:
        listed = "; ".join(f"{host}: {kind}" for host, kind in kinds.items())
        yield Finding(
            "GPU",
            "",
            "warning",
            f"hosts have different GPUs ({listed})",
            "Times and GPU seconds of trials cannot be compared; search on hosts of one kind.",
        )


def check_tested(untested: Mapping[str, str]) -> Iterator[Finding]:
    """untested: of the driver; its hosts have the same versions."""
    for package, version in untested.items():
        yield Finding(
            "versions",
            "",
            "warning",
            f"{package} {version} has not been tested ({package} {TESTED[package]} has), and the search "
            "uses parts of it that may change with any release",
            f"On every host: pip install '{package}=={TESTED[package]}.*'",
        )


def _storage(answer: Answer, nonce: str, folder: Path) -> Finding:
    facts = answer.facts
    if facts.nonce == nonce and not facts.error:
        return Finding("storage", answer.host, "ok", f"{folder} can be written")
    return Finding(
        "storage",
        answer.host,
        "fault",
        f"cannot use {folder} ({facts.error or 'it has other content there'})",
        "--storage must be a folder that all hosts share, at the same path, and may write.",
    )


def _space(answer: Answer, folder: Path) -> Iterator[Finding]:
    facts = answer.facts
    places = (
        (f"{folder}", facts.free_storage, "Make room, or lower --keep-models and --keep-samples."),
        ("the folder for temporary files", facts.free_temporary, "Ray writes there; make room."),
    )
    for place, free, remedy in places:
        if free is None:
            continue
        text = f"{free / GIB:,.1f} GiB free in {place}"
        if free < LEAST_SPACE:
            yield Finding("free space", answer.host, "fault", text, remedy)
        elif free < LITTLE_SPACE:
            yield Finding("free space", answer.host, "warning", text, remedy)
        else:
            yield Finding("free space", answer.host, "ok", f"at least 5 GiB in {place}")
    if facts.shared_memory is not None and facts.shared_memory < LITTLE_SHARED_MEMORY:
        yield Finding(
            "free space",
            answer.host,
            "warning",
            f"{facts.shared_memory / 2**20:,.0f} MiB of shared memory (/dev/shm)",
            "Ray falls back to the disk; start the container with --shm-size 1g or more.",
        )


def _versions(answer: Answer, ours: HostFacts) -> Finding:
    there = answer.facts.versions
    if differing := differing_versions(there, ours.versions):
        return Finding(
            "versions",
            answer.host,
            "fault",
            f"has {differing}",
            "Install the same versions on all hosts (pip install -c constraints.txt).",
        )
    listed = ", ".join(f"{package} {version}" for package, version in there.items())
    return Finding("versions", answer.host, "ok", listed)


def _clock(answer: Answer) -> Finding:
    """The host read its clock between the question and the answer, so more than that is skew."""
    late = answer.facts.clock - answer.answered
    early = answer.asked - answer.facts.clock
    skew = max(late, early, 0.0)
    if skew <= CLOCK_SECONDS:
        return Finding("clock", answer.host, "ok", f"within {CLOCK_SECONDS:g} s of the driver's")
    way = "ahead of" if late > early else "behind"
    return Finding(
        "clock",
        answer.host,
        "warning",
        f"at least {skew:,.0f} s {way} the driver's",
        "Times in logs and MLflow will not agree; run chrony or systemd-timesyncd on all hosts.",
    )


def _gpus(answer: Answer) -> Finding:
    facts, counted = answer.facts, answer.gpus
    driver = f", driver {facts.gpu_driver}" if facts.gpu_driver else ""
    if counted > len(facts.gpus):
        why = (
            "torch is a build for processors"
            if not facts.cuda
            else f"torch wants CUDA {facts.cuda}{driver}"
        )
        return Finding(
            "GPU",
            answer.host,
            "fault",
            f"Ray counts {counted:g}, and torch sees {len(facts.gpus)} ({why})",
            "Install torch with CUDA and a driver that is new enough, or use --gpus-per-worker 0.",
        )
    if facts.gpus and counted == 0:
        return Finding(
            "GPU",
            answer.host,
            "warning",
            f"torch sees {len(facts.gpus)}, and Ray counts none",
            "Start Ray there without --num-gpus=0, and with CUDA_VISIBLE_DEVICES unset.",
        )
    if not facts.gpus:
        return Finding("GPU", answer.host, "ok", "none; trials run on processors")
    names = ", ".join(sorted(set(facts.gpus)))
    return Finding("GPU", answer.host, "ok", f"{len(facts.gpus)} x {names}{driver}")


def _data(answer: Answer, ours: HostFacts) -> Finding:
    facts = answer.facts
    if facts.data_error:
        return Finding(
            "data set",
            answer.host,
            "fault",
            f"cannot be loaded ({facts.data_error})",
            "Install or copy what it needs on every host.",
        )
    if ours.data and facts.data != ours.data:
        return Finding(
            "data set",
            answer.host,
            "fault",
            f"is another one ({facts.data[:12]} instead of {ours.data[:12]})",
            "Values from there could not be compared; copy the same files to every host.",
        )
    return Finding("data set", answer.host, "ok", f"can be loaded (fingerprint {facts.data[:12]})")


def _open_files(answer: Answer) -> Finding:
    limit = answer.facts.open_files
    if limit < FEW_OPEN_FILES:
        return Finding(
            "open files",
            answer.host,
            "warning",
            f"at most {limit:,} per process",
            f"Ray needs more with many slots: `ulimit -n {16 * FEW_OPEN_FILES}` before `ray start`.",
        )
    return Finding("open files", answer.host, "ok", f"at least {FEW_OPEN_FILES:,} per process")
