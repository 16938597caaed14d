"""A stage of a search: a study with its tracking, as the director that Ray Tune asks."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from meanflow_tune.cluster.signals import Interrupt
from meanflow_tune.cluster.start_stages import StartStages
from meanflow_tune.driver.handling.user_requests import UserRequests
from meanflow_tune.files import OnlyShown, Unreachable, WaitForSpace, is_full
from meanflow_tune.records import INFEASIBLE, TEACHER, Job, Outcome, Report, TrialRecord
from meanflow_tune.report.live import View
from meanflow_tune.report.outlook import ProgressTracker
from meanflow_tune.report.result_files import model_of, with_pictures
from meanflow_tune.report.state.host_state import hosts_of
from meanflow_tune.report.state.waits import waits
from meanflow_tune.search.errors import LeaseLost
from meanflow_tune.search.pruning.rules import show
from meanflow_tune.search.study.ledger import Ledger
from meanflow_tune.search.study.writer import STOPPED_BY_USER
from meanflow_tune.tracking.events import Tracker
from meanflow_tune.tracking.outbox import Outbox
from meanflow_tune.tracking.replay import Replayer
from meanflow_tune.training.disk_wait import NO_SPACE

log = logging.getLogger(__name__)


def submit(background: ThreadPoolExecutor, call: Callable[..., None], *arguments: Any) -> None:
    """Call in the background. A failure is logged; the next driver sends tracking what it missed."""

    def guarded() -> None:
        try:
            call(*arguments)
        except LeaseLost:
            log.debug("the new driver sends it")  # the main thread says why this one ends
        except Exception as error:
            missed = "tracking missed an event; running the same command again adds it"
            if is_full(error) or isinstance(error, Unreachable):
                log.warning("%s: %s", missed, error)
            else:
                log.exception("%s", missed)

    background.submit(guarded)


class Stage:
    """A study with its tracking: the search itself, or its confirmation. Answers Ray Tune.

    Called in Tune's loop, so nothing here waits for a network or draws a picture. label: what the view
    calls a trial; total: how many there will be; logged: a trial's model that is logged when it ends.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        outbox: Outbox,
        replayer: Replayer,
        view: View,
        background: ThreadPoolExecutor,
        label: str,
        total: int,
        interrupt: Interrupt,
        space: WaitForSpace,
        tracker: Tracker | None = None,
        logged: Callable[[TrialRecord], Path | None] = model_of,
    ) -> None:
        self.name, self.ledger, self.view = name, ledger, view
        self.tracker = Tracker(outbox, name) if tracker is None else tracker
        self._logged = logged
        self.replayer = replayer
        self.background = background
        self._label = label
        self.total = total
        self._interrupt, self._space = interrupt, space
        self._stop_announced = False
        self.handle_requests: Callable[[], None] = lambda: None  # of other terminals, at each tick
        # The faults of a snapshot are told by the driver, once; its second argument names a trial.
        self.tell_faults: Callable[[Sequence[Mapping[str, Any]], Callable[[int], str]], None]
        self.tell_faults = lambda faults, title: None
        self.start = StartStages()
        self.waiting: list[str] = []  # what waits for what, as of the last tick
        self.tidy: Callable[[], None] = lambda: None  # what a trial that has ended leaves on disk
        # A trial's files, which lie elsewhere where the storage is remote. In the background thread.
        self.fetch: Callable[[Path], None] = lambda folder: None
        self._outbox = outbox
        self._refused: dict[int, str] = {}  # trial -> why its report could not be used
        self._full: str | None = None  # the full folder that was announced
        self._rows: dict[int, dict[str, Any]] = {}
        self._phase = ""
        self.progress_tracker = ProgressTracker()
        self._shown = OnlyShown(view.error, (LeaseLost,))

    def catch_up(self) -> None:
        """Send tracking what a killed driver did not; missing pictures are drawn again."""
        self.tracker.catch_up(self.ledger.records(), self._logged, self._drawn)

    def next_job(self) -> Job | None:
        """The next trial, unfinished ones of an earlier driver first; None when there is none now."""
        job = self.ledger.next()
        if job is None:
            return None
        record = self.ledger.record_of(job.number)
        self.tracker.trial_started(job, record)
        what = record.what
        self._rows[job.number] = {"name": self._title(job.number), "what": what, "phase": "waiting"}
        self.view.event(f"{self._title(job.number)} {self._began(job, record, what)}")
        self._refresh()
        return job

    def _began(self, job: Job, record: TrialRecord, what: str) -> str:
        promotion = self.ledger.promotion_of(job.number)
        if promotion is not None:
            images, why = promotion
            return f"promoted from {images:,} images: {why}"
        if not job.attempt:
            return f"started ({what})"
        rung = f" from {record.reports[-1].images:,} images" if record.reports else ""
        return f"resumed{rung} ({what}, attempt {job.attempt + 1})"

    def exhausted(self) -> bool:
        """Whether no trial is left to hand out."""
        return self.ledger.exhausted()

    def on_report(self, number: int, report: Report) -> bool:
        """Store a rung and decide; the decision goes back to the workers."""
        known = _reports(self.ledger.record_of(number))
        try:
            decision = self.ledger.record(number, report)
        except ValueError as error:  # without an objective: ends this trial, not the search
            self._refused[number] = f"its report at {report.images:,} images has no value: {error}"
            return False
        self.start.reached("the first report")
        record = self.ledger.record_of(number)
        if _reports(record) > known:
            values = self.ledger.objectives.values(report)
            self._rows.setdefault(number, {})["last"] = show(values)
            text = f"{show(values)} at {report.images:,} images"
            self.view.event(f"{self._title(number)}: {text} ({decision.reason})")
        submit(self.background, self._track_report, record, report)
        self._refresh()
        return decision.go_on

    def on_end(self, number: int, outcome: Outcome) -> None:
        """Store how a trial ended; an interrupted one is left to the next driver."""
        said = self._rows.pop(number, {}).get("last")
        if number in self._refused:
            outcome = Outcome("failed", self._refused.pop(number), deterministic=True)
        self.progress_tracker.ended(number)
        outcome = self.ledger.outcome_of(number, outcome)
        if outcome.status == "running":
            return
        try:
            self.ledger.finish(number, outcome)
        finally:  # also if this is the failure that stops the search
            self._announce_end(self.ledger.record_of(number), outcome, said)

    def _announce_end(self, record: TrialRecord, outcome: Outcome, said: str | None) -> None:
        """Tell tracking and the view how a trial ended, or that it has not yet.

        said: the value that its last rung's line gave.
        """
        title = self._title(record.number)
        value = f" with {show(record.values)}" if record.values else ""
        if said == show(record.values):
            value = ""
        if record.status == "running":
            self.view.event(f"{title} {outcome.reason}; the next run resumes it", "failed")
        elif record.status == "paused":
            submit(self.background, self.tracker.paused, record)
            self.view.event(f"{title} paused{value}", record.status)
        else:
            self._track_end(record, outcome)
            told = outcome == STOPPED_BY_USER or outcome.status in (*INFEASIBLE, "failed")
            why = f": {outcome.reason}" if told else ""
            self.view.event(f"{title} {record.status}{value}{why}", record.status)
            submit(self.background, self._tidied)
        self._refresh()

    def end(self) -> None:
        """Nothing is left to hand out: paused trials become pruned."""
        for number in self.ledger.end():
            record = self.ledger.record_of(number)
            self._track_end(record, Outcome(record.status, record.reason))

    def on_tick(self, snapshot: dict[str, Any]) -> None:
        """Progress of the running trials and the state of the slots; faults and training a teacher are
        events."""
        if self._interrupt.requested and not self._stop_announced:
            self._stop_announced = True
            self.view.event("stopping at the next safe point; Ctrl-C again stops at once")
        self.handle_requests()
        self._outbox.fence()  # so that a suspended and replaced driver ends even without a report
        self._announce_space(snapshot["progress"].values())
        for number, progress in snapshot["progress"].items():
            if number in self._rows:
                self._rows[number] |= progress
                self.progress_tracker.heard(number, progress)
        self.start.tick(snapshot)
        self.tell_faults(snapshot.get("faults", ()), self._title)
        self.waiting = waits(self._rows, snapshot, self._label)
        self.view.state["slots"] = hosts_of(snapshot, self._title)
        if self._phase == "" and any(row.get("phase") == TEACHER for row in self._rows.values()):
            self._phase = TEACHER
            self.view.event("training the teacher, once; later searches load it from the cache")
        self._refresh()

    def to_stop(self) -> tuple[int, ...]:
        """The running trials that a user stopped."""
        return self.ledger.stopping()

    def apply_requests(self, requests: UserRequests) -> None:
        """Apply what other terminals ask of the search; a trial that this ends is tracked."""

        def ended(number: int) -> None:
            self._announce_end(self.ledger.record_of(number), STOPPED_BY_USER, None)

        requests.apply(self.ledger, ended)

    def _announce_space(self, progress: Iterable[Mapping[str, Any]]) -> None:
        """Say once that trials wait for disk space, and once that they continue."""
        waiting = [now for now in progress if now.get("phase") == NO_SPACE]
        if waiting and self._full is None:
            self._full = waiting[0]["folder"]
            self._space.begin(self._full, waiting[0]["free"])
        elif self._full is not None and not waiting:
            self._space.end(self._full)
            self._full = None

    def _tidied(self) -> None:
        self._shown("remove checkpoints that are not kept", self.tidy, None)

    def _title(self, number: int) -> str:
        return f"{self._label} {number}"

    def _track_end(self, record: TrialRecord, outcome: Outcome) -> None:
        # In the background thread, so that it comes after the last report.
        submit(self.background, self._tell_end, record, outcome)

    def _tell_end(self, record: TrialRecord, outcome: Outcome) -> None:
        self.fetch(Path(record.folder))
        self.tracker.ended(record, outcome, self._logged(record))

    def _track_report(self, record: TrialRecord, report: Report) -> None:
        self.fetch(Path(record.folder))
        try:
            drawn = self._outbox.write_policy(
                lambda: self._drawn(record, report, full=True), Path(record.folder)
            )
        except OSError:  # the disk is full, and the user gave up waiting for space
            log.warning("no space to draw the samples of trial %d", record.number)
            drawn = report
        self.tracker.reported(record, drawn)

    def _drawn(self, record: TrialRecord, report: Report, full: bool = False) -> Report:
        """The report with its pictures; without, where they cannot be drawn."""

        def draw() -> Report:
            self._outbox.fence()
            return with_pictures(record, report)

        return self._shown("draw the samples of a trial", draw, report, full)

    def _refresh(self) -> None:
        self.view.state |= {"running": [dict(row) for row in self._rows.values() if "name" in row]}


def _reports(record: TrialRecord) -> int:
    return len(record.reports) + len(record.repeats)
