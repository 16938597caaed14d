"""A director without a study, which remembers all it hears."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from meanflow_tune.records import Job, Outcome, Report


class ToyDirector:
    """Hands out one job per configuration; continues where `decide(number, images)` says so."""

    def __init__(
        self,
        configs: list[dict[str, Any]],
        folder: Path,
        decide: Callable[[int, int], bool] = lambda number, images: True,
        on_tick: Callable[[dict[str, Any]], None] = lambda snapshot: None,
    ) -> None:
        self._configs, self._folder, self._decide, self.on_tick = configs, folder, decide, on_tick
        self.handed = 0
        self.reports: dict[int, dict[int, Report]] = {}
        self.outcomes: dict[int, Outcome] = {}

    def next_job(self) -> Job | None:
        if self.exhausted():
            return None
        number = self.handed
        self.handed += 1
        folder = str(self.folder(number))
        return Job("toy", number, self._configs[number], folder, attempt=0, epoch=1)

    def folder(self, number: int) -> Path:
        return self._folder / f"{number:05d}"

    def exhausted(self) -> bool:
        return self.handed == len(self._configs)

    def to_stop(self) -> tuple[int, ...]:
        return ()

    def on_report(self, number: int, report: Report) -> bool:
        self.reports.setdefault(number, {})[report.images] = report
        return self._decide(number, report.images)

    def on_end(self, number: int, outcome: Outcome) -> None:
        assert number not in self.outcomes
        self.outcomes[number] = outcome
