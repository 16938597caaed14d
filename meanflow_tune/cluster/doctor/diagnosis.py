"""One result of a check: good, doubtful or a fault, with its remedy."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """where: a host, or "" for the driver or the whole cluster; remedy: "" where nothing is wrong."""

    check: str
    where: str
    level: Level
    found: str
    remedy: str = ""

    def line(self) -> str:
        """In one sentence or two, for a terminal without a table."""
        place = f" on {self.where}" if self.where else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.check}{place}: {self.found}.{remedy}"


def faults(findings: Iterable[Finding]) -> list[Finding]:
    """Those that no search survives."""
    return [finding for finding in findings if finding.level == "fault"]


def gathered(findings: Iterable[Finding]) -> list[Finding]:
    """The same findings with all hosts of which one check says the same in one line."""
    groups: dict[tuple[str, Level, str, str], list[str]] = {}
    for one in findings:
        groups.setdefault((one.check, one.level, one.found, one.remedy), []).append(one.where)
    return [
        Finding(check, _places(hosts), level, found, remedy)
        for (check, level, found, remedy), hosts in groups.items()
    ]


def _places(hosts: list[str]) -> str:
    if len(hosts) <= 2:
        return ", ".join(hosts)
    return f"{hosts[0]} and {len(hosts) - 1} more hosts"
