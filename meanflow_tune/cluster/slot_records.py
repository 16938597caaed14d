"""What the broker knows of each slot."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

SlotState = Literal["starting", "ready", "waiting", "restarting", "ended"]
QUIET = 3.0  # seconds by which a rank that died stops calling before its peers are ended
STATES: tuple[str, ...] = get_args(SlotState)


@dataclass
class Slot:
    """incarnation: "" before its first processes registered; seen, since: when one of its processes
    called last, and when its state changed; moved: when its job last made progress (seconds).

    discarded: its processes must end; leaving: the host of one of them is going away. told: the fault
    that takes its job is recorded; ending: that fault ends its processes, which is no other one.
    state, detail, hosts: as its supervisor said last; ranks: the latest beat of each.
    """

    name: str
    incarnation: str
    seen: float
    number: int | None = None
    moved: float = 0.0
    discarded: bool = False
    leaving: bool = False
    told: bool = False
    ending: bool = False
    starts: int = 0
    state: str = "starting"
    detail: str = ""
    since: float = 0.0
    hosts: list[str] = field(default_factory=list)
    ranks: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.moved = self.since = self.seen

    def take(self, number: int, now: float) -> None:
        """A job begins."""
        self.number, self.moved = number, now
        self.told = self.ending = False

    def heard(self, rank: int, use: dict[str, Any], now: float) -> None:
        """A heartbeat of a rank."""
        self.seen = now
        self.ranks[rank] = use | {"seen": now}
        if self.number is None and not self.leaving:  # silent before, without a job to lose
            self.told = self.ending = False

    def silence(self, now: float) -> float:
        """Seconds since the rank that is silent for longest called."""
        return now - min([beat["seen"] for beat in self.ranks.values()] or [self.seen])

    @property
    def host(self) -> str:
        """The hosts of its ranks, as they or its supervisor named them."""
        return _names(self.ranks) or ", ".join(self.hosts)

    def quiet_host(self) -> str:
        """The hosts of the ranks that stopped calling before the others; all where none did."""
        quiet = {
            rank: beat for rank, beat in self.ranks.items() if self.seen - beat["seen"] > QUIET
        }
        return _names(quiet) or self.host

    def to_dict(self, now: float, lost_after: float) -> dict[str, Any]:
        """For the driver: plain values, with times as seconds until now."""
        return {
            "number": self.number,
            "silent_s": self.silence(now),
            "lost": self.discarded or self.silence(now) > lost_after,
            "starts": self.starts,
            "state": "running" if self.number is not None else self.state,
            "detail": self.detail,
            "state_s": now - self.since,
            "hosts": list(self.hosts),
            "ranks": {
                rank: {k: v for k, v in beat.items() if k != "seen"}
                | {"silent_s": now - beat["seen"]}
                for rank, beat in sorted(self.ranks.items())
            },
        }


def _names(ranks: dict[int, dict[str, Any]]) -> str:
    named = [beat["host"] for _, beat in sorted(ranks.items()) if beat.get("host")]
    return ", ".join(dict.fromkeys(named))
