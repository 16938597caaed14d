"""The end of a command: result files, what MLflow is told, and the last screen."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from meanflow_tune.cluster.signals import Interrupt
from meanflow_tune.driver import search_tracking, tracking
from meanflow_tune.driver.disk.retention import Retention
from meanflow_tune.driver.search_tracking import SearchTracking
from meanflow_tune.driver.stage import Stage
from meanflow_tune.driver.status_writer import StatusWriter
from meanflow_tune.files import OnlyShown, WaitForSpace, is_full
from meanflow_tune.plan.findings import Findings
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import EXIT_ALL_FAILED, EXIT_INTERRUPTED, EXIT_OK
from meanflow_tune.report.answer import Answer, answer
from meanflow_tune.report.commands import with_remedy
from meanflow_tune.report.last_screen import show_last_screen
from meanflow_tune.report.live import View
from meanflow_tune.report.result_files import write_files

DRAIN_SECONDS = 60.0
INTERRUPTED_SECONDS = 5.0


@dataclass(frozen=True)
class Conclusion:
    """What a search and its confirmation found when this command ended.

    interrupted: by a user, to be resumed; stopped: because too many trials failed; interrupt: tells also of
    a Ctrl-C during the end itself; faults: of its slots, in one line, "" without any.
    """

    plan: Plan
    findings: Findings
    stages: Sequence[Stage]
    view: View
    command: str
    interrupt: Interrupt
    interrupted: bool
    stopped: bool
    shown: OnlyShown
    write_policy: WaitForSpace
    retention: Retention
    faults: str = ""

    def run(
        self,
        tracked: SearchTracking,
        status: StatusWriter,
        background: ThreadPoolExecutor,
        time_note: str,
    ) -> int:
        """Write, tell and show everything; returns the exit status.

        time_note: what the time budget cut short. Raises, at the end, the error of a disk that refused the
        result files.
        """
        answered = None if self.interrupted else self._answer()
        files, unwritten = self._write_files()
        told = self.plan, self.stages, self.findings, answered, files, self.state, self.command
        self.shown("describe the search in MLflow", partial(search_tracking.end, *told), None)
        finish(background, self.interrupt)
        status.end()
        self.view.close()  # it would wrap the commands that follow
        if not self.interrupted:
            tracked.replayer.audit()
        seconds = INTERRUPTED_SECONDS if self.interrupted else DRAIN_SECONDS
        tracking.drain(self.stages, self.view, seconds, self.command)
        status.end()  # again, with what MLflow got and refused meanwhile
        exhausted = self.stages[0].exhausted()
        if self.state == "completed" and exhausted and not tracked.waits():
            remove = partial(self.retention.search_ended, self.findings)
            self.shown("remove what is not kept", remove, None)
            search_tracking.remove_others(self.plan.request, self.findings)
        if self.faults and (self.interrupted or self.stopped):
            self.view.error(self.faults)
        if self.interrupted:
            self.view.error(
                f"\nInterrupted; nothing was lost. Resume with:\n  {with_remedy(self.command)}"
            )
            return EXIT_INTERRUPTED
        if self.stopped:
            return EXIT_ALL_FAILED
        notes = [note for note in (self.faults, "" if exhausted else time_note) if note]
        given = self.plan, self.findings, answered, files, self.command, notes, self.shown
        show_last_screen(self.view.console, *given, tracked.page())
        if unwritten is not None:
            raise unwritten
        return EXIT_OK if self._completed else EXIT_ALL_FAILED

    @property
    def state(self) -> str:
        """For MLflow: completed, interrupted or failed."""
        if self.stopped or not (self.interrupted or self._completed):
            return "failed"
        return "interrupted" if self.interrupted else "completed"

    @property
    def _completed(self) -> bool:
        return any(record.status == "completed" for record in self.findings.records)

    def _answer(self) -> Answer | None:
        """The answer in words; None where it cannot be made, which ends nothing."""

        def make() -> Answer | None:
            return answer(self.plan, self.findings, self.findings.insight)

        return self.shown("put the answer into words", make, None)

    def _write_files(self) -> tuple[list[Path], OSError | None]:
        """The result files, once there is space for them; none where a disk refuses them, with its error
        unless the user gave up waiting for space."""
        folder = self.plan.request.folder
        try:
            return self.write_policy(
                lambda: write_files(self.plan, self.findings, self.shown), folder
            ), None
        except OSError as error:
            if not (self.interrupt.requested and is_full(error)):
                return [], error
            self.view.error(
                f"no space for the results in {folder}; run the same command again to write them:"
                f"\n  {with_remedy(self.command)}"
            )
            return [], None


def finish(background: ThreadPoolExecutor, interrupt: Interrupt) -> None:
    """Wait for what a thread still does; Ctrl-C ends its wait for a full disk or a silent server, too."""
    try:
        background.shutdown(wait=True)
    except KeyboardInterrupt:
        interrupt.request()
        raise
