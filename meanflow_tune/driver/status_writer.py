"""Where a search stands, once per second: for the live view, for status.json, and for `--status`."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from meanflow_tune.driver.disk.free_space import DiskWatch
from meanflow_tune.driver.stage import Stage
from meanflow_tune.driver.tracking import backlog_lines, tracking_lines
from meanflow_tune.files import OnlyShown, write_atomic
from meanflow_tune.formats import FORMAT, KEY
from meanflow_tune.plan.findings import implausible_trials
from meanflow_tune.plan.known_quality import KnownQuality
from meanflow_tune.plan.plan import Plan
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.forecast_tables import confirmation_work, ladder_of
from meanflow_tune.report.live import View
from meanflow_tune.report.outlook import Outlook, best_so_far, look_ahead, teacher_quality
from meanflow_tune.report.state.status_file import STATUS_NAME, Source
from meanflow_tune.report.state.trial_choice import study_state
from meanflow_tune.search.analysis.forecast import Ladder
from meanflow_tune.search.analysis.plausibility import explain
from meanflow_tune.search.errors import LeaseLost
from meanflow_tune.search.store.database_lease import AnyLease
from meanflow_tune.search.store.storage import JOURNAL_NAME
from meanflow_tune.search.store.time_budget import TimeBudget
from meanflow_tune.search.store.trials import best_record
from meanflow_tune.urls import hide_passwords

# A forecast is reused for one write per this many trials: it reads all of them and changes little.
TRIALS_PER_REUSE = 100
KEYS = (
    "study",
    "total",
    "done",
    "running",
    "best",
    "teacher",
    "warnings",
    "tracking",
    "slots",
    "faults",
)


class StatusWriter:
    """Writes status.json in its own thread, from `start` to `end`. slots: how many trials run at once.

    stages: the driver's own list; the last one is running.
    """

    def __init__(
        self, plan: Plan, lease: AnyLease, view: View, time_budget: TimeBudget, stages: list[Stage]
    ) -> None:
        self.slots: Callable[[], int] = lambda: 1
        self._plan, self._lease, self._view, self._time_budget = plan, lease, view, time_budget
        self._stages = stages
        self._stopped = threading.Event()
        self._writing = threading.Lock()
        self._shown = OnlyShown(view.error, (LeaseLost,))
        self._disk = DiskWatch(plan, view.error, lambda: self.slots())
        self._ahead: tuple[Any, Outlook] = None, Outlook()
        self._looks = 0  # since it was made
        self._quality = KnownQuality()

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Write no more."""
        self._stopped.set()

    def end(self) -> None:
        """Write that the driver has ended. Raises LeaseLost."""
        self.stop()
        self._shown("write the status", self.write, None)

    def _run(self) -> None:
        pause = 1.0
        while not self._stopped.wait(pause):
            began = time.monotonic()
            try:
                self._shown("write the status", self.write, None)
            except LeaseLost:
                return
            # Reading a large study is slow; spend at most a twentieth of the time on it.
            pause = min(10.0, max(1.0, 20.0 * (time.monotonic() - began)))

    def write(self) -> None:
        """status.json, from which `--status` shows the running trials; and the view's counts."""
        with self._writing:  # so that the last one written is the last one made
            self._write()

    def _write(self) -> None:
        self._lease.check()
        stage = self._stages[-1]
        study = self._study()
        records = stage.ledger.records()
        done = Counter(record.status for record in records)
        self._view.state |= {
            "study": stage.name,
            "total": stage.total,
            "done": dict(done),
            "budget_left": self._time_budget.left,
            "tracking": tracking_lines(self._stages),
            **self._standing(stage, records),
            **self._look_ahead(stage, records).to_dict(),
        }
        keys = (*KEYS, *Outlook.__dataclass_fields__)
        state = {key: self._view.state.get(key) for key in keys} | study
        state["waiting"] = [*stage.waiting, *backlog_lines(self._stages)]
        state |= {KEY: FORMAT, "time": time.time(), "ended": self._stopped.is_set()}
        write_atomic(
            self._plan.request.folder / STATUS_NAME, json.dumps(hide_passwords(state), indent=1)
        )
        self._view.beat()

    def _study(self) -> dict[str, Any]:
        """The trials of the search that a screen holds, so that `--status` need not read the study."""
        search, request = self._stages[0], self._plan.request
        source = Source.of(request, JOURNAL_NAME)  # before the trials: newer ones are noticed
        trials = study_state(search.ledger.records(), search.ledger.objectives.directions)
        return {
            "search": search.name,
            "trials_asked": search.total,
            "trials": trials.to_dict(),
            "source": source.to_dict(),
        }

    def _standing(self, stage: Stage, records: list[TrialRecord]) -> dict[str, Any]:
        """Of the search, also while its confirmation runs: its best trials, its teacher's quality, and
        what is implausible."""
        search = self._stages[0]
        records = records if stage is search else search.ledger.records()
        objectives = search.ledger.objectives
        single = objectives.single
        best = best_record(records, single.direction) if single is not None else None
        self._quality.update(records, all_files=self._stopped.is_set())
        found = implausible_trials(records, objectives, self._quality.limits)
        confirmed = () if stage is search else stage.ledger.records()
        look = partial(self._disk.look, records, confirmed)
        nothing: list[str] = []
        disk = self._shown("look at the disk", look, nothing)
        return {
            "best": best_so_far(records, single.direction, self._plan.space.reference)
            if single is not None
            else "",
            "teacher": teacher_quality(self._quality.any),
            "warnings": [
                *disk,
                *explain(found, best.number if best is not None else None, single is None),
            ],
        }

    @cached_property
    def _ladder(self) -> Ladder:
        return ladder_of(self._plan)  # cached: its expectations are slow for many trials

    def _look_ahead(self, stage: Stage, records: list[TrialRecord]) -> Outlook:
        """The outlook, renewed less often the more trials there are."""
        known, kept = self._ahead
        self._looks += 1
        now = stage.name, self._stopped.is_set()
        if (
            known != now
            or kept.seconds_left is None
            or self._looks >= len(records) / TRIALS_PER_REUSE
        ):
            kept = self._outlook(stage, records)
            self._ahead, self._looks = (now, kept), 0
        return kept

    def _outlook(self, stage: Stage, records: list[TrialRecord]) -> Outlook:
        """Where the stage stands, and when the search and its confirmation will end."""
        ladder, afterwards = self._ladder, None
        if stage is self._stages[0]:
            afterwards = confirmation_work(self._plan, ladder.images[-1])
        else:
            ladder = Ladder(ladder.images[-1:], None, stage.total, stage.total)
        found = look_ahead(
            records,
            ladder,
            self._plan.objectives,
            self.slots(),
            stage.progress_tracker.images,
            stage.progress_tracker.pace,
            afterwards,
            self._time_budget.left if stage is self._stages[0] else None,
        )
        return replace(found, seconds_left=None, forecast="") if self._stopped.is_set() else found
