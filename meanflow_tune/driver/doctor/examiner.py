"""Runs the checks of the doctor, one after another, and collects what they find."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from meanflow_tune.cluster.doctor.diagnosis import Finding
from meanflow_tune.cluster.errors import ClusterError
from meanflow_tune.driver.cli import search_request, tune_parser
from meanflow_tune.files import sqlite_path
from meanflow_tune.plan.request import SearchRequest, UserError, usable_folder
from meanflow_tune.remote.location import shown_storage, storage_of
from meanflow_tune.remote.object_store import ObjectStore
from meanflow_tune.urls import hide_password


class Doctor:
    """Collects findings; each check says on a terminal that it is running."""

    def __init__(self, say_running: Callable[[str], None]) -> None:
        self.findings: list[Finding] = []
        self._say = say_running

    @contextmanager
    def checking(self, check: str, good: str = "") -> Iterator[None]:
        """One check on the driver's side: an error that a user can fix is a fault, its end is `good`."""
        self._say(check)
        try:
            yield
        except (UserError, ClusterError, OSError, ValueError) as error:
            self.findings.append(Finding(check, "", "fault", _sentence(str(error))))
        else:
            if good:
                self.findings.append(Finding(check, "", "ok", good))

    def add(self, findings: list[Finding]) -> None:
        self.findings += findings


def _sentence(text: str) -> str:
    return " ".join(text.split())


def asked_search(arguments: argparse.Namespace) -> SearchRequest:
    """The search that would be started with these options. Raises UserError as it does."""
    words = ["--space", arguments.space, "--storage", arguments.storage]
    words += ["--workers-per-trial", arguments.workers_per_trial]
    for flag in ("cluster", "study_storage", "tracking_uri"):
        value = getattr(arguments, flag)
        if value is not None:
            words.append(f"--{flag.replace('_', '-')}")
            words += [value] if value else []
    return search_request(tune_parser().parse_args(words))


def diagnose(request: SearchRequest, require_token: bool, doctor: Doctor) -> None:
    """Check everything that the request needs; what is wrong becomes a finding of `doctor`."""
    from meanflow_tune.driver.handling.remote_study import check_remote
    from meanflow_tune.driver.tracking import check_tracking
    from meanflow_tune.plan.plan import make_plan

    example = None
    with doctor.checking("search space", f"{request.space} can be searched"):
        example = make_plan(request).examples[0].to_dict()
    folder, remote = None, storage_of(request.storage)
    good = f"{shown_storage(request.storage)} can be written from here" if remote else ""
    with doctor.checking("storage", good):
        if remote:
            check_remote(request, ObjectStore(remote[0]))
        folder = usable_folder(request.storage)
    if folder is None:
        return
    with doctor.checking("tracking server", _tracking(request.mlflow_uri)):
        if warning := check_tracking(request):
            raise UserError(warning)
    if request.study_storage is not None:
        from meanflow_tune.driver.resume import check_study_storage

        file = sqlite_path(request.study_storage)
        good = "answers" if file is None else f"the study is in {file}"
        with doctor.checking("database", good):
            check_study_storage(request)
    if request.cluster is None:
        from meanflow_tune.cluster.doctor.examination import examine_here

        with doctor.checking("this machine"):
            doctor.add(examine_here(folder, example))
        return
    _diagnose_cluster(request, require_token, folder, example, doctor)


def _tracking(uri: str) -> str:
    file = sqlite_path(uri)
    return f"{hide_password(uri)} answers" if file is None else f"MLflow can use {file}"


def _diagnose_cluster(
    request: SearchRequest,
    require_token: bool,
    folder: Path,
    example: dict[str, object] | None,
    doctor: Doctor,
) -> None:
    from meanflow_tune.cluster.connection.session import join

    where = request.cluster or None
    with doctor.checking("cluster"), join(where, require_token=require_token) as session:
        from meanflow_tune.cluster.doctor.examination import examine_hosts

        doctor.add([Finding("token", "", "warning", note) for note in session.notes])
        if not session.notes:
            doctor.add([Finding("token", "", "ok", "the cluster asks for one")])
        with doctor.checking("hosts"):
            # With a storage at a URL, the folder is each host's own copy.
            shared = storage_of(request.storage) is None
            found = examine_hosts(folder, example)
            doctor.add([one for one in found if shared or one.check != "storage"])
        if request.workers_per_trial > 1:
            from meanflow_tune.cluster.slots.rendezvous import check_meeting

            with doctor.checking("rendezvous", "ranks on all hosts meet"):
                check_meeting()
