"""Figures of trials' samples for a status that is written every second: each file is read once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meanflow_tune.plan.quality import Quality, quality_of
from meanflow_tune.records import TrialRecord
from meanflow_tune.search.analysis.plausibility import Limits

LOOKS = 100  # files per update
LONGEST = 1024  # updates between two looks for a file that is not there


@dataclass
class _Entry:
    """source: of the trial's last samples; due: the update in which they are looked for; tries: in vain."""

    source: str
    due: int
    tries: int = 0
    limits: Limits | None = None


class KnownQuality:
    """What is known of the samples of a study's trials.

    Ten thousand trials have ten thousand files, on a shared file system perhaps: each is read once, the
    newest first, at most `LOOKS` per `update`. One that is not there, since it was removed or has not
    come yet, is looked for ever less often. look: reads the figures of a trial.
    """

    def __init__(self, look: Callable[[TrialRecord], Quality] = quality_of) -> None:
        self._look = look
        self._entries: dict[int, _Entry] = {}
        self._updates = 0
        self.any = Quality()  # of any trial that has figures

    def update(self, records: Sequence[TrialRecord], all_files: bool = False) -> None:
        """Look at some more files; all_files: at all that have not been read."""
        self._updates += 1
        looks = 0
        for record in reversed(records):
            entry = self._entry(record)
            if entry is None or entry.limits is not None or entry.due > self._updates:
                continue
            if looks >= LOOKS and not all_files:
                return
            looks += 1
            found = self._look(record)
            if found:
                entry.limits, self.any = found.limits, self.any or found
            else:
                entry.tries += 1
                entry.due = self._updates + min(2**entry.tries, LONGEST)

    def limits(self, record: TrialRecord) -> Limits:
        """What the trial should be better than; nothing where its file has not been read."""
        entry = self._entry(record)
        return {} if entry is None or entry.limits is None else entry.limits

    def _entry(self, record: TrialRecord) -> _Entry | None:
        """None for a trial without samples. A trial that trains on has other samples."""
        source = record.reports[-1].artifacts.get("samples") if record.reports else None
        if source is None:
            return None
        entry = self._entries.get(record.number)
        if entry is None or entry.source != source:
            entry = self._entries[record.number] = _Entry(source, self._updates)
        return entry
