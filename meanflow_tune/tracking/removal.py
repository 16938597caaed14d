"""Removing what a study has in MLflow: its experiment, runs, registered model versions and artifacts.

A database is emptied for good. A server keeps what its clients delete until its owner runs `mlflow gc`; the
experiment is renamed before, so that another study may have its name.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from meanflow_tune.files import sqlite_path
from meanflow_tune.tracking.experiments import own_experiment
from meanflow_tune.tracking.mlflow_store import connect
from meanflow_tune.tracking.run_tree import every_run
from meanflow_tune.urls import hide_password

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Unreachable(RuntimeError):
    """MLflow does not answer, or its database cannot be used."""


@dataclass(frozen=True)
class Tracked:
    """What a study has in MLflow; experiment None: nothing. kept: a server keeps it until `mlflow gc`."""

    uri: str
    experiment: str | None = None
    runs: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    artifacts: str = ""
    kept: bool = False


def find_tracked(uri: str, study: str, uid: str | None) -> Tracked:
    """uid: of the study's outbox; None where it was never tracked. Raises Unreachable."""
    database = sqlite_path(uri)
    if uid is None or (database is not None and not database.exists()):
        return Tracked(uri)
    try:
        client = connect(uri)
        found = own_experiment(client, study, uid)
        if found is None:
            return Tracked(uri)
        runs = _runs(client, found.experiment_id)
        versions = [
            (version.name, str(version.version))
            for run in runs
            for version in client.search_model_versions(f"run_id='{run}'")
        ]
    except Exception as error:  # of MLflow, of SQLAlchemy or of the network
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Unreachable(hide_password(f"{uri}: {lines[0][:200]}")) from error
    place = found.artifact_location or ""
    kept = not uri.startswith("sqlite:")
    return Tracked(uri, found.experiment_id, tuple(runs), tuple(versions), place, kept)


def remove_tracked(tracked: Tracked, study: str) -> None:
    """Remove it; what an interrupted removal has left is found and removed again. Raises Unreachable."""
    if tracked.experiment is None:
        return
    try:
        _remove(connect(tracked.uri), tracked, study)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Unreachable(hide_password(f"{tracked.uri}: {lines[0][:200]}")) from error


def _remove(client: "MlflowClient", tracked: Tracked, study: str) -> None:
    assert tracked.experiment is not None
    for name, version in tracked.versions:
        client.delete_model_version(name, version)
    for name in {name for name, _ in tracked.versions}:
        if not client.search_model_versions(f"name='{name}'", max_results=1):
            client.delete_registered_model(name)
    if tracked.kept:
        experiment = client.get_experiment(tracked.experiment)
        if experiment.lifecycle_stage == "active":
            stamp = time.strftime("%Y%m%d-%H%M%S")
            client.rename_experiment(tracked.experiment, f"{study} deleted {stamp}")
            client.delete_experiment(tracked.experiment)
        return
    place = urlparse(tracked.artifacts)
    folder = Path(unquote(place.path))
    if place.scheme == "file" and folder.name.startswith(study):
        shutil.rmtree(folder, ignore_errors=True)
    store: Any = client._tracking_client.store
    if client.get_experiment(tracked.experiment).lifecycle_stage == "deleted":
        client.restore_experiment(tracked.experiment)  # its models are listed only then
    models = _logged_models(client, tracked.experiment)
    client.delete_experiment(tracked.experiment)  # only what is deleted can be removed
    for model in models:
        store._hard_delete_logged_model(model)
    for run in tracked.runs:
        store._hard_delete_run(run)
    store._hard_delete_experiment(tracked.experiment)


def _runs(client: "MlflowClient", experiment: str) -> list[str]:
    """Ids of all runs, deleted ones too."""
    return [run.info.run_id for run in every_run(lambda: client, experiment, deleted=True)]


def _logged_models(client: "MlflowClient", experiment: str) -> list[str]:
    found: list[str] = []
    token = None
    while True:
        page = client.search_logged_models([experiment], page_token=token)
        found += [model.model_id for model in page]
        token = page.token
        if not token:
            return found
