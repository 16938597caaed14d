"""The driver: one run of the command, which joins study, cluster, tracking and reports into a search.

Only this process writes the study. Everything that it needs to resume after a kill is in the study's
folder, so that resuming is running the same command again.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from meanflow_tune.cluster.errors import BrokerLost, ClusterError, ClusterLost
from meanflow_tune.cluster.runner import Runner
from meanflow_tune.cluster.signals import AnyOf, Interrupt
from meanflow_tune.cluster.start_stages import StartStages
from meanflow_tune.driver import search_tracking, tracking
from meanflow_tune.driver.conclusion import Conclusion
from meanflow_tune.driver.disk.retention import Retention
from meanflow_tune.driver.handling import remote_study
from meanflow_tune.driver.handling.user_requests import UserRequests
from meanflow_tune.driver.lost_cluster import Abandon, abandon, check_cluster, first_words, lost
from meanflow_tune.driver.resume import check_study_storage, prepare_study, put_aside
from meanflow_tune.driver.search_log import SearchLog
from meanflow_tune.driver.stage import Stage
from meanflow_tune.driver.status_writer import StatusWriter
from meanflow_tune.driver.taking_lease import take_lease
from meanflow_tune.files import OnlyShown, WaitForSpace, is_full
from meanflow_tune.plan import confirm
from meanflow_tune.plan.findings import find
from meanflow_tune.plan.plan import Plan, make_plan
from meanflow_tune.plan.request import (
    EXIT_ALL_FAILED,
    EXIT_IN_USE,
    EXIT_UNUSABLE,
    SearchRequest,
    UserError,
    usable_folder,
)
from meanflow_tune.records import RunJob, TrialRecord
from meanflow_tune.remote.study_copy import StudyCopy
from meanflow_tune.report.live import View
from meanflow_tune.search.errors import (
    LeaseLost,
    SearchStopped,
    SpaceError,
    StorageError,
    StudyChanged,
    StudyInUse,
)
from meanflow_tune.search.samplers.limits import independent_note
from meanflow_tune.search.store.database_lease import AnyLease
from meanflow_tune.search.store.lease import check_epoch
from meanflow_tune.search.store.manifest import MANIFEST_NAME
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.time_budget import TimeBudget
from meanflow_tune.search.store.trials import read_records
from meanflow_tune.search.study.ledger import Ledger
from meanflow_tune.search.study.relocate import open_study
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.outbox import Outbox
from meanflow_tune.tracking.replay import Sink
from meanflow_tune.training import job

log = logging.getLogger(__name__)


def run(
    request: SearchRequest,
    command: str,
    quiet: bool = False,
    verbose: bool = False,
    give_up: Abandon | None = None,
) -> int:
    """Search, confirm, and report. Returns the exit status; raises UserError with its own.

    command: what a user types to resume, for messages; give_up: ends the process, from a thread, where the
    main one is stuck inside Ray, whose head is lost.
    """
    usable_folder(request.storage)
    check_cluster(request)
    check_study_storage(request)
    warning = tracking.check_tracking(request)
    copy = remote_study.prepare(request)
    plan = make_plan(request)
    if request.resume == "must" and not (request.folder / MANIFEST_NAME).exists():
        raise UserError(f"--resume must: there is no study {request.study} in {request.storage}.")
    view = View(quiet)
    try:
        if request.resume == "fresh":
            put_aside(request, partial(take_lease, request, view))
        with take_lease(request, view) as lease, view, remote_study.copied(copy, lease, view):
            if warning:
                view.error(warning)
            return Driver(plan, lease, view, command, verbose, give_up=give_up, copy=copy).run()
    except StudyInUse as error:
        raise UserError(str(error), EXIT_IN_USE) from error
    except (StudyChanged, SpaceError) as error:
        raise UserError(str(error)) from error
    except (ClusterLost, BrokerLost) as error:
        raise lost(error) from error
    except (StorageError, LeaseLost, ClusterError) as error:
        raise UserError(str(error), EXIT_UNUSABLE, repeat=True) from error
    except OSError as error:
        where = error.filename or request.storage
        raise UserError(
            f"{where}: {error.strerror or error}; nothing was lost; fix this and run the "
            "same command again.",
            EXIT_UNUSABLE,
            repeat=True,
        ) from error


class Driver:
    """One run of the command, from a held lease to the summary.

    make_sink: what tracking is sent to, MLflow by default. run_job: what a worker does with a job
    (must be picklable), training by default. A benchmark passes others, and calls `open`,
    or its steps, in place of `run`. copy: of a study in an object store.
    """

    def __init__(
        self,
        plan: Plan,
        lease: AnyLease,
        view: View,
        command: str,
        verbose: bool,
        make_sink: Callable[[], Sink] | None = None,
        run_job: RunJob | None = None,
        give_up: Abandon | None = None,
        copy: StudyCopy | None = None,
    ) -> None:
        self.plan, self.request = plan, plan.request
        self.lease, self.view, self.command, self.verbose = lease, view, command, verbose
        self.start = StartStages(view.event) if verbose else StartStages()
        self._copy = copy
        where = plan.request.storage, plan.request.tracking_uri
        repair = partial(remote_study.repair, lease.check, copy, view.event)
        given = *where, lease.check, view.event, repair, remote_study.artifacts(copy)
        mlflow = partial(MlflowSink, *given)
        self._make_sink: Callable[[], Sink] = make_sink or mlflow
        teachers, system = str(self.request.teachers), self.request.system_metrics
        train = partial(job.run_job, cache=teachers, fence=check_epoch, system_metrics=system)
        self._run_job = run_job or remote_study.jobs(copy, self.request) or train
        self.search_log = SearchLog(plan.request.folder, view.error)
        view.log, view.state["faults"] = self.search_log.write, self.search_log.state()
        self.stages: list[Stage] = []
        self.user_requests, self.interrupt = UserRequests(plan, view.event), Interrupt()
        self._give_up, self.shown = give_up, OnlyShown(view.error, (LeaseLost,))
        self.write_policy = WaitForSpace(view.error, lambda: self.interrupt.requested)
        self.retention = Retention(self.request, plan.objectives, lease.check)
        # Waits, too: a lease in a database cannot be checked while its server is down.
        self.fence = partial(self.write_policy, lease.check, self.request.folder)

    def run(self) -> int:
        """Returns the exit status."""
        with self.search_log.run(self.command, self.lease.check) as ended, ExitStack() as stack:
            search = self.open(stack)
            stack.callback(self.status.stop)
            self.status.start()
            stopped: SearchStopped | None = None
            try:
                self._work(search, stack)
            except KeyboardInterrupt:
                self.interrupt.request()
            except SearchStopped as error:
                stopped = error
            except ClusterError:
                self.status.end()
                raise
            except OSError as error:
                # Interrupted by the user while a write waited for space.
                if not (self.interrupt.requested and is_full(error)):
                    raise
            ended(status := self._conclude(search, stopped))
            tracking.say_refused(self.stages, self.view)
        if stopped is not None:
            raise UserError(str(stopped), EXIT_ALL_FAILED, repeat=True) from stopped
        return status

    def open(self, stack: ExitStack) -> Stage:
        """Everything before the first trial; returns the search."""
        self.open_study()
        self.check_manifest()
        if note := independent_note(self.request.sampler, self.plan.independent):
            self.view.event(note)
        search = self.open_search(self.make_ledger(), stack)
        search_tracking.begin(self.plan, search, self.manifest)
        search.catch_up()
        search.handle_requests()
        return search

    def open_study(self) -> None:
        """Open, repair or create the study's storage."""
        request, lease = self.request, self.lease
        opened = partial(
            open_storage,
            fence=lease.check,
            recover=lease.taken_over,
            write_policy=self.write_policy,
            commit_fence=getattr(lease, "guard", None),
        )
        self.storage = open_study(
            request.folder, request.study, request.study_storage, opened, self.view.event
        )

    def check_manifest(self) -> None:
        """Raises StudyChanged where the stored study was made under other terms and work is left."""
        self.terms, self.manifest = prepare_study(self.storage, self.plan, self.view.event)

    def make_ledger(self) -> Ledger:
        """The ledger of the search."""
        request = self.request
        return Ledger(
            storage=self.storage,
            study_name=request.study,
            suggest=self.plan.suggest,
            baselines=self.plan.space.baselines,
            objectives=self.plan.objectives,
            rungs=self.plan.rungs,
            sampler=request.sampler,
            seed=request.seed,
            total=request.trials,
            folder=request.folder,
            fence=self.fence,
            epoch=self.lease.epoch,
            startup_trials=request.startup_trials,
            repeats=request.repeats,
            max_failures=request.max_failures,
            terms=self.manifest.terms,
            ramps_end=self.plan.ramps_end,
            enqueued=self.user_requests.enqueued,
        )

    def open_search(self, ledger: Ledger, stack: ExitStack) -> Stage:
        """The search with its tracking, time budget and status; closed by `stack`."""
        request, lease = self.request, self.lease
        self.time_budget = TimeBudget(
            request.folder, lease.epoch, lease.check, request.time_budget, self.view.event
        )
        # One thread draws and tracks, in order, so that Tune's loop never waits for a picture.
        self.background = stack.enter_context(ThreadPoolExecutor(1, "pictures"))
        search = self._stage(request.study, request.folder, ledger, "trial", request.trials, stack)
        self.status = StatusWriter(self.plan, lease, self.view, self.time_budget, self.stages)
        return search

    def _stage(
        self,
        name: str,
        folder: Path,
        ledger: Ledger,
        label: str,
        total: int,
        stack: ExitStack,
    ) -> Stage:
        folder.mkdir(parents=True, exist_ok=True)
        if not self.stages:
            say = self.view.error
            outbox = Outbox(folder, self.fence, self.write_policy)
            self._tracking = search_tracking.SearchTracking(
                self.plan, outbox, self._make_sink(), self.command, say
            )
            stack.enter_context(self._tracking.replayer)
        tracked = self._tracking
        known = name, ledger, tracked.outbox, tracked.replayer, self.view, self.background, label
        rest = total, self.interrupt, self.write_policy, tracked.tracker, tracked.model_of
        stage = Stage(*known, *rest)
        stage.fetch = partial(remote_study.fetch_trial, self._copy, self.write_policy)
        self.stages.append(stage)
        stage.tidy = self.retention.of_stage(ledger.record_feed().update)
        # Also while the confirmation runs: they are about the search.
        stage.handle_requests = partial(self.stages[0].apply_requests, self.user_requests)
        stage.tell_faults, stage.start = self._tell_faults, self.start
        return stage

    def _tell_faults(
        self, faults: Sequence[Mapping[str, Any]], title: Callable[[int], str]
    ) -> None:
        for line in self.search_log.take(faults, title):
            self.view.event(line, "failed")
            self.view.state["faults"] = self.search_log.state()

    def _confirm_stage(self, search: Stage, stack: ExitStack) -> Stage | None:
        """The study of the confirmation; None where nothing is to be confirmed."""
        found = self._confirm_ledger(search)
        if found is None:
            return None
        folder = self.request.folder / "confirm"
        ledger, total = found
        name = confirm.study_name(self.request)
        stage = self._stage(name, folder, ledger, "confirmation", total, stack)
        stage.catch_up()
        return stage

    def _confirm_ledger(self, search: Stage) -> tuple[Ledger, int] | None:
        """The ledger of the confirmation and the number of its runs known by now; None without any."""
        given = search.ledger.records(), self._confirmed(), self.fence, self.lease.epoch
        return confirm.make_ledger(self.plan, self.storage, *given)

    def _confirmed(self) -> list[TrialRecord]:
        """The runs of the confirmation; none where its study does not exist yet."""
        request = self.request
        try:
            return read_records(
                self.storage, confirm.study_name(request), request.folder / "confirm"
            )
        except StorageError:
            return []

    def _work(self, search: Stage, stack: ExitStack) -> None:
        """Run the rest of the search, then of its confirmation; Ray is up only meanwhile."""
        with ExitStack() as cluster:
            start = cache(lambda: cluster.enter_context(self.start_runner()))
            self._search(search, start)
            if not self.interrupt.requested:
                self._confirm(search, stack, start)

    def _search(self, search: Stage, start: Callable[[], Runner]) -> None:
        if search.exhausted():
            return
        if self.time_budget.requested:
            self.view.event("the time budget is used up; no trial is started")
            return
        self.terms.enforce()
        runner = start()
        with self.time_budget:
            runner.search(search, search.name, AnyOf(self.interrupt, self.time_budget))

    def _confirm(self, search: Stage, stack: ExitStack, start: Callable[[], Runner]) -> None:
        stage = self._confirm_stage(search, stack)
        if stage is None or stage.exhausted():
            return
        self.terms.enforce()
        runner = start()
        while True:
            runner.search(stage, stage.name, self.interrupt)
            if self.interrupt.requested:
                return
            # Further runs can be named once the tuning of baselines has ended.
            more = self._confirm_ledger(search)
            if more is None or more[1] <= stage.total:
                return
            stage.ledger, stage.total = more

    @contextmanager
    def start_runner(self) -> Iterator[Runner]:
        """Ray and its workers, up until the end of the block."""
        request = self.request
        self.view.event(first_words(request))
        with Runner.start(
            cluster=request.cluster,
            workers=request.workers_per_trial,
            max_concurrent=request.max_concurrent,
            cpus_per_worker=request.cpus_per_worker,
            gpus_per_worker=request.gpus_per_worker,
            storage=request.storage,
            study=request.folder,
            epoch=self.lease.epoch,
            interrupt=self.interrupt,
            verbose=self.verbose,
            run_job=self._run_job,
            example=self.plan.examples[0].to_dict(),
            require_token=request.require_token,
            wait_for_cluster=request.wait_for_cluster,
            abandon=lambda error: abandon(
                error, self.lease.release, self.view, self.status, self._give_up
            ),
            warn=self.view.error,
            reached=self.start.reached,
            modules=self.plan.space.modules,
            reach=None if self._copy is None else self._copy.store.check,
        ) as runner:
            self.view.event(runner.description)
            self.status.slots = lambda: runner.slots
            yield runner

    def _conclude(self, search: Stage, stopped: SearchStopped | None) -> int:
        """Everything after the last trial of this run; returns the exit status."""
        search.handle_requests()
        if not self.interrupt.requested and search.exhausted():
            search.end()
        findings = find(self.plan, search.ledger.records(), self._confirmed())
        conclusion = Conclusion(
            plan=self.plan,
            findings=findings,
            stages=self.stages,
            view=self.view,
            command=self.command,
            interrupt=self.interrupt,
            interrupted=self.interrupt.requested,
            stopped=stopped is not None,
            shown=self.shown,
            write_policy=self.write_policy,
            faults=self.search_log.summary(),
            retention=self.retention,
        )
        return conclusion.run(self._tracking, self.status, self.background, self.time_budget.note)
