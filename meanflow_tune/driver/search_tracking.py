"""What the driver tells tracking of a search as a whole, and which models are kept (`--keep-models`)."""

import logging
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from meanflow_tune.driver.stage import Stage, submit
from meanflow_tune.plan.findings import Findings, implausible_trials
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.registration import registration
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.plan.tracked_facts import datasets, figures, first_view, search_facts, verdicts
from meanflow_tune.records import TrialRecord
from meanflow_tune.remote.study_copy import delete_stored
from meanflow_tune.report.answer import Answer
from meanflow_tune.report.description import describe
from meanflow_tune.report.result_files import model_of
from meanflow_tune.report.summary import LOCAL_SERVER
from meanflow_tune.search.analysis.plausibility import marks
from meanflow_tune.search.store.manifest import Manifest
from meanflow_tune.tracking.events import Origin, Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.outbox import Outbox
from meanflow_tune.tracking.replay import Replayer, Sink
from meanflow_tune.tracking.source import source_tags
from meanflow_tune.urls import hide_password

log = logging.getLogger(__name__)


class SearchTracking:
    """The tracking of a search and of its confirmation, whose runs are below the same one.

    say: gets what MLflow refused. The replayer is a context manager that the caller enters.
    """

    def __init__(
        self, plan: Plan, outbox: Outbox, sink: Sink, command: str, say: Callable[[str], None]
    ) -> None:
        self._plan, self._sink, self.outbox = plan, sink, outbox
        self.replayer = Replayer(outbox, sink, say=say)
        words = shlex.split(command)
        entry = next((word for word in words if word.endswith(".py")), words[0] if words else "")
        origin = Origin(source_tags(entry), datasets(plan))
        self.tracker = Tracker(outbox, plan.request.study, origin)

    def model_of(self, record: TrialRecord) -> Path | None:
        """The model that is logged when its trial ends: any, unless the best are to be known first."""
        return model_of(record) if self._plan.request.best_models is None else None

    def waits(self) -> bool:
        """Whether MLflow has yet to receive anything."""
        status = self.replayer.status()
        return bool(status.pending or status.repairs)

    def page(self) -> str | None:
        """The link of the study in MLflow's training view; None where MLflow has not answered yet."""
        request = self._plan.request
        uri = hide_password(request.mlflow_uri)
        server = uri if uri.startswith("http") else LOCAL_SERVER
        return (
            self._sink.page(request.study, server) if isinstance(self._sink, MlflowSink) else None
        )


def begin(plan: Plan, search: Stage, manifest: Manifest) -> None:
    """The search's run, its parameters, and what its page shows first."""
    search.tracker.search_started(search_facts(plan, manifest.facts()), first_view(plan))


def end(
    plan: Plan,
    stages: Sequence[Stage],
    findings: Findings,
    answered: Answer | None,
    files: Sequence[Path],
    state: str,
    command: str,
) -> None:
    """State and verdict of each trial, figures, description, and models; in the background.

    state: completed, interrupted or failed; an interrupted search is not judged yet.
    """
    search, objectives = stages[0], plan.objectives
    tracker, background = search.tracker, search.background
    if state != "interrupted":
        for record in to_log(plan.request, findings):
            if (folder := model_of(record)) is not None:
                submit(background, tracker.exported, record, folder)
        entry = registration(plan, findings)
        if entry is not None and plan.request.best_models != 0:
            submit(background, tracker.registered, entry)
        judgements = list(zip(stages, verdicts(plan, findings), strict=False))
        for stage, judged in reversed(judgements):  # the search's own last
            records = stage.ledger.records()
            known = marks(implausible_trials(records, objectives))
            submit(background, tracker.settled, records, known, judged)
    facts = {"status": state, **findings.facts(objectives)}
    words = () if answered is None else answered.sentences
    text = describe(plan, findings, command, words)
    numbers = figures(plan, findings)
    submit(background, tracker.search_ended, facts, files, numbers, text)


def needed(findings: Findings) -> set[int]:
    """Trials whose models stay whatever was asked for: best.json's, and those of the answer."""
    others = (r for r in findings.order if r.baseline is not None)
    baseline = findings.reference or next(others, None)
    named = (findings.leader, findings.best_proposed, baseline)
    return {record.number for record in named if record is not None}


def to_log(request: SearchRequest, findings: Findings) -> list[TrialRecord]:
    """Completed trials of the search whose models are logged at its end: all, none, or the best and what
    the registry needs."""
    best = request.best_models
    if best is None:
        return list(findings.order)
    if best == 0:
        return []
    kept = {record.number for record in findings.order[:best]} | needed(findings)
    return [record for record in findings.order if record.number in kept]


def remove_others(request: SearchRequest, findings: Findings) -> None:
    """Delete the exported models that are not kept; the checkpoints stay, and a student loads from them."""
    if request.best_models is None:
        return
    kept = {record.number for record in to_log(request, findings)} | needed(findings)
    others = [r for r in findings.records if r.status == "completed" and r.number not in kept]
    _remove(model_of(record) for record in (*others, *findings.confirmed))


def _remove(folders: Iterable[Path | None]) -> None:
    for folder in folders:
        if folder is None:
            continue
        try:
            shutil.rmtree(folder)
            delete_stored(folder)
        except OSError as error:
            log.warning("the model %s stays: %s", folder, error.strerror or error)
