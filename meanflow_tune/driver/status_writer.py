"""Where a search stands, once per second: for the live view, for status.json, and for `--status`."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial

from meanflow_tune.driver.disk.free_space import DiskWatch
from meanflow_tune.driver.stage import Stage
from meanflow_tune.driver.stage_records import StageRecords
from meanflow_tune.driver.tracking import backlog_lines, tracking_lines
from meanflow_tune.files import OnlyShown, write_atomic
from meanflow_tune.formats import FORMAT, KEY
from meanflow_tune.plan.findings import implausible_trials
from meanflow_tune.plan.known_quality import KnownQuality
from meanflow_tune.plan.plan import Plan
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.forecast_tables import confirmation_work, ladder_of
from meanflow_tune.report.live import View
from meanflow_tune.report.outlook import Outlook, look_ahead, teacher_quality
from meanflow_tune.report.state.status_file import STATUS_NAME, Source
from meanflow_tune.search.analysis.forecast import Ladder
from meanflow_tune.search.analysis.plausibility import explain
from meanflow_tune.search.errors import LeaseLost
from meanflow_tune.search.store.database_lease import AnyLease
from meanflow_tune.search.store.storage import JOURNAL_NAME
from meanflow_tune.search.store.time_budget import TimeBudget
from meanflow_tune.urls import hide_passwords

# What reads all trials and changes little, such as a forecast, is reused for one write per this many trials.
TRIALS_PER_REUSE = 50
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
        self._records: dict[str, StageRecords] = {}
        # Made of all records, at the first of `_writes` writes, for the stage and state `_renewed`.
        self._ahead, self._writes = Outlook(), 0
        self._implausible: list[str] = []
        self._renewed: tuple[str, bool] | None = None
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
        stage, ended = self._stages[-1], self._stopped.is_set()
        search = self._known(self._stages[0])
        source = Source.of(self._plan.request, JOURNAL_NAME)  # before the trials: newer are noticed
        search.update()
        known = search if stage is self._stages[0] else self._known(stage)
        if known is not search:
            known.update()
        self._renew(stage, known, search)
        self._view.state |= {
            "study": stage.name,
            "total": stage.total,
            "done": known.choice.done,
            "budget_left": self._time_budget.left,
            "tracking": tracking_lines(self._stages),
            "best": search.best(self._plan.space.reference),
            "teacher": teacher_quality(self._quality.any),
            "warnings": [*self._look_at_disk(known, search), *self._implausible],
            **self._ahead.to_dict(),
        }
        keys = (*KEYS, *Outlook.__dataclass_fields__)
        state = {key: self._view.state.get(key) for key in keys} | {
            "search": self._stages[0].name,
            "trials_asked": self._stages[0].total,
            "trials": search.choice.state().to_dict(),
            "source": source.to_dict(),
        }
        state["waiting"] = [*stage.waiting, *backlog_lines(self._stages)]
        state |= {KEY: FORMAT, "time": time.time(), "ended": ended}
        text = json.dumps(hide_passwords(state), indent=1)
        write_atomic(self._plan.request.folder / STATUS_NAME, text, durable=ended)
        self._view.beat()

    def _known(self, stage: Stage) -> StageRecords:
        if stage.name not in self._records:
            self._records[stage.name] = StageRecords(stage.ledger)
        return self._records[stage.name]

    def _renew(self, stage: Stage, known: StageRecords, search: StageRecords) -> None:
        """What is made of all records: the less often the more there are."""
        now = stage.name, self._stopped.is_set()
        self._writes += 1
        due = self._writes >= max(known.count, search.count) / TRIALS_PER_REUSE
        if now == self._renewed and self._ahead.seconds_left is not None and not due:
            return
        self._renewed, self._writes = now, 0
        records = search.all()
        self._implausible = self._warnings(records, search.leader)
        self._ahead = self._outlook(stage, known.all() if known is not search else records)

    def _look_at_disk(self, known: StageRecords, search: StageRecords) -> list[str]:
        confirmed = () if known is search else known.all()
        nothing: list[str] = []
        look = partial(self._disk.look, search.all(), confirmed)
        return self._shown("look at the disk", look, nothing)

    def _warnings(self, records: list[TrialRecord], leader: TrialRecord | None) -> list[str]:
        """Of the search, also while its confirmation runs: what is implausible."""
        objectives = self._stages[0].ledger.objectives
        self._quality.update(records, all_files=self._stopped.is_set())
        found = implausible_trials(records, objectives, self._quality.limits)
        return explain(
            found, leader.number if leader is not None else None, objectives.single is None
        )

    @cached_property
    def _ladder(self) -> Ladder:
        return ladder_of(self._plan)  # cached: its expectations are slow for many trials

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
