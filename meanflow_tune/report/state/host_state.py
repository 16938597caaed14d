"""Slots by host: what the broker's snapshot says of them, as plain data of status.json, and back."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meanflow_tune.report.state.values import mappings, number, text

QUIET_SECONDS = 10.0  # after which a slot whose processes run counts as silent
NO_HOST = "no host yet"
ANSWERING = ("running", "ready")
WELL = (*ANSWERING, "starting")


@dataclass(frozen=True)
class Gpu:
    """percent: of its time in use, None where that is unknown; used, total: bytes."""

    name: str
    percent: float | None
    used: int
    total: int


@dataclass(frozen=True)
class SlotState:
    """A slot as far as it is on one host. state: `running`, `ready`, `silent`, or as its supervisor says.

    waits_for: for what, or why it restarts; seconds: silent or in this state for so long; memory: bytes,
    0 where unknown.
    """

    slot: str
    state: str
    trial: str
    waits_for: str
    seconds: float
    memory: int

    @property
    def well(self) -> bool:
        """Whether it runs a trial, could, or is about to."""
        return self.state in WELL


@dataclass(frozen=True)
class HostState:
    """A host with its slots and the GPUs that they use."""

    host: str
    slots: tuple[SlotState, ...]
    gpus: tuple[Gpu, ...]

    @property
    def well(self) -> bool:
        """Whether all of its slots are."""
        return all(slot.well for slot in self.slots)

    @property
    def memory(self) -> int:
        """Bytes of its slots' processes."""
        return sum(slot.memory for slot in self.slots)


def hosts_of(snapshot: Mapping[str, Any], title: Callable[[int], str]) -> list[dict[str, Any]]:
    """The hosts of a broker's snapshot, for status.json; title: what a user calls a trial.

    A slot is listed on each host of its ranks, and on none once it has ended.
    """
    hosts: dict[str, dict[str, Any]] = {}
    for name, slot in sorted(snapshot.get("slots", {}).items(), key=lambda item: _order(item[0])):
        if slot.get("state") == "ended":
            continue
        ranks = slot.get("ranks", {}).values()
        named = [rank["host"] for rank in ranks if rank.get("host")] or slot.get("hosts", ())
        for host in dict.fromkeys(named or [NO_HOST]):
            here = [rank for rank in ranks if rank.get("host") == host]
            entry = hosts.setdefault(host, {"host": host, "slots": [], "gpus": []})
            entry["slots"].append({"slot": name, **_slot(slot, here, title)})
            for gpu in filter(None, map(_gpu, here)):
                if gpu not in entry["gpus"]:  # two slots may share one
                    entry["gpus"].append(gpu)
    return sorted(hosts.values(), key=lambda entry: _order(entry["host"]))


def _slot(
    slot: Mapping[str, Any], here: list[Mapping[str, Any]], title: Callable[[int], str]
) -> dict[str, Any]:
    state, silent = slot.get("state", "ready"), slot["silent_s"]
    if state in ANSWERING and (slot["lost"] or silent > QUIET_SECONDS):
        state = "silent"
    return {
        "state": state,
        "trial": "" if slot["number"] is None else title(slot["number"]),
        "waits_for": slot.get("detail", "") if state not in WELL else "",
        "seconds": round(silent if state == "silent" else slot.get("state_s", 0.0), 1),
        "silent_s": round(silent, 1),
        "starts": slot["starts"],
        "memory": sum(rank.get("memory", 0) for rank in here),
    }


def _gpu(rank: Mapping[str, Any]) -> dict[str, Any] | None:
    if "gpu_memory_total" not in rank:
        return None
    return {
        "id": rank.get("gpu_id", ""),
        "name": rank.get("gpu", ""),
        "percent": rank.get("gpu_percent"),
        "used": rank.get("gpu_memory", 0),
        "total": rank["gpu_memory_total"],
    }


def _order(name: str) -> tuple[tuple[int, str], ...]:
    """`slot-2` comes before `slot-10`."""
    parts: list[str] = [""]
    for c in name:
        if parts[-1] and c.isdecimal() != parts[-1].isdecimal():
            parts.append("")
        parts[-1] += c
    return tuple((int(p), "") if p.isdecimal() and p.isascii() else (-1, p) for p in parts)


def read_hosts(value: object) -> list[HostState]:
    """The hosts of `hosts_of`, of a file that may hold anything."""
    return [
        HostState(text(host.get("host")), tuple(_slots(host)), tuple(_gpus(host)))
        for host in mappings(value)
    ]


def _slots(host: Mapping[str, Any]) -> Iterable[SlotState]:
    for slot in mappings(host.get("slots")):
        yield SlotState(
            slot=text(slot.get("slot")),
            state=text(slot.get("state")),
            trial=text(slot.get("trial")),
            waits_for=text(slot.get("waits_for")),
            seconds=number(slot.get("seconds")),
            memory=int(number(slot.get("memory"))),
        )


def _gpus(host: Mapping[str, Any]) -> Iterable[Gpu]:
    for gpu in mappings(host.get("gpus")):
        known = isinstance(gpu.get("percent"), int | float)
        percent = number(gpu.get("percent")) if known else None
        used, total = (int(number(gpu.get(key))) for key in ("used", "total"))
        yield Gpu(text(gpu.get("name")), percent, used, total)
