"""Seconds from faults to recovery, collected during a session and printed as a table."""

import os
from dataclasses import dataclass, field

# Seconds within which a search runs again on two idle cores, with the fast health settings.
GOALS = {
    "rank killed": 15.0,
    "raylet killed": 25.0,
    "power cut": 25.0,
    "link cut": 30.0,
    "driver replaced": 60.0,
    "head rebuilt": 90.0,
}


@dataclass
class Measured:
    """Recoveries by fault, each with the machine's load at that time."""

    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, fault: str, seconds: float) -> None:
        self.seconds.setdefault(fault, []).append((seconds, os.getloadavg()[0]))

    def lines(self) -> list[str]:
        """The table, with the goal of each fault that has one."""
        rows = [f"{'fault':24} {'seconds to recovery':30} {'goal':>6} {'load':>6}"]
        for fault, found in self.seconds.items():
            times = ", ".join(f"{seconds:.1f}" for seconds, _ in found)
            goal = f"{GOALS[fault]:.0f}" if fault in GOALS else ""
            load = max(load for _, load in found)
            rows.append(f"{fault:24} {times:30} {goal:>6} {load:6.1f}")
        return rows
