"""A search whose `--storage` is a URL: what it needs, and the copy of its study while a driver works."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from meanflow_tune.files import Unreachable, WritePolicy, is_full, sqlite_path
from meanflow_tune.plan.request import EXIT_UNUSABLE, SearchRequest, UserError
from meanflow_tune.records import RunJob
from meanflow_tune.remote.location import UnusableRemote, artifact_root, storage_of
from meanflow_tune.remote.object_store import ObjectStore, reason
from meanflow_tune.remote.reading import studies_in
from meanflow_tune.remote.remote_jobs import RemoteJobs
from meanflow_tune.remote.study_copy import (
    MANIFEST,
    STATUS_FILES,
    StudyCopy,
    fetch_files,
    fetch_study,
)
from meanflow_tune.report.live import View
from meanflow_tune.search.store.database import is_postgresql
from meanflow_tune.search.store.database_lease import AnyLease


def prepare(request: SearchRequest) -> StudyCopy | None:
    """Check a remote storage, and fetch the manifest; None for a folder. Raises UserError."""
    found = storage_of(request.storage)
    if found is None:
        return None
    url, root = found
    store = ObjectStore(url)
    check_remote(request, store)
    copy = StudyCopy(store, root, request.study)
    with answering(store):
        copy.fetch_manifest()
    return copy


def check_remote(request: SearchRequest, store: ObjectStore) -> None:
    """Raises UserError unless the storage can be used, with the options of the request."""
    named = f"--storage {store.shown}"
    if not is_postgresql(request.study_storage):
        raise UserError(
            f"{named}: a journal file needs a file system with locks, so that the study and its lease live"
            " in a database: add --study-storage postgresql://USER@HOST/DATABASE."
        )
    uri = request.tracking_uri
    if uri is None or sqlite_path(uri) is not None:
        raise UserError(
            f"{named}: MLflow's SQLite file would be lost with this host: add --tracking-uri"
            " postgresql://USER@HOST/ANOTHER_DATABASE, or http://HOST:PORT of an MLflow server."
        )
    if request.resume == "fresh":
        raise UserError(
            f"{named}: --resume fresh renames a study's folder, which an object store cannot; give the"
            " search another study name."
        )
    if request.keep_checkpoints != "all":
        raise UserError(
            f"{named}: --keep-checkpoints thins out folders only; leave it out, and let rules of the bucket"
            " delete old checkpoints."
        )
    if request.import_study is not None:
        raise UserError(f"{named}: --import-study reads studies in folders only.")
    if store.url.startswith("s3:") and not uri.startswith("http") and not find_spec("boto3"):
        raise UserError(
            f"{named}: MLflow needs boto3 for artifacts in S3: pip install 'meanflow-tune[s3]'."
        )
    check_store(store)


def check_store(store: ObjectStore) -> None:
    """Raises UserError (5) for a storage that cannot be used."""
    try:
        store.check()
    except UnusableRemote as error:
        raise UserError(f"--storage {error}.", EXIT_UNUSABLE, repeat=True) from None


@contextmanager
def answering(store: ObjectStore) -> Iterator[None]:
    """Errors of the storage as one line that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--storage {store.shown}: does not answer ({reason(error)}); nothing was lost.",
            EXIT_UNUSABLE,
            repeat=True,
        ) from error


@contextmanager
def copied(copy: StudyCopy | None, lease: AnyLease, view: View) -> Iterator[None]:
    """Keep the storage up to date while a driver works, and give it the rest at the end."""
    if copy is None:
        yield
        return
    with answering(copy.store):
        copy.begin(lease.check, view.error)
    try:
        yield
    except BaseException:
        copy.stop()
        with suppress(Exception):  # what ended the search is the error to tell
            copy.release()
        raise
    with answering(copy.store):
        copy.end()
        copy.release()


def jobs(copy: StudyCopy | None, request: SearchRequest) -> RunJob | None:
    """What slots do with a job of a study in an object store; None for one in a folder."""
    if copy is None:
        return None
    root, teachers = str(request.storage), str(request.teachers)
    return RemoteJobs(copy.store.url, root, teachers, request.system_metrics)


def artifacts(copy: StudyCopy | None) -> str | None:
    """The root of MLflow's artifacts in an object store; None for a folder's own."""
    return None if copy is None else artifact_root(copy.store.url)


def fetch_trial(copy: StudyCopy | None, policy: WritePolicy, folder: Path) -> None:
    """What a worker sent of a trial, but for checkpoints. policy: waits for a silent storage."""
    if copy is None:
        return
    store = copy.store

    def fetch() -> None:
        try:
            copy.fetch_trial(folder)
        except OSError as error:
            if is_full(error):
                raise
            raise Unreachable(store.shown, reason(error)) from error

    policy(fetch, folder)


def repair(
    fence: Callable[[], None],
    copy: StudyCopy | None,
    say: Callable[[str], None],
    export: Path,
    why: str,
) -> None:
    """Export the student of a trial again from its newest checkpoint, where its export is damaged."""
    from meanflow_tune.sampling.student_sources import remake_export

    fence()
    if copy is not None:
        copy.fetch_checkpoints(export.parent)
    remake_export(export, why, say)


def fetch_studies(storage: Path, names: list[str]) -> None:
    """The named studies, or all, for a command that only reads, where the storage is remote."""
    found = storage_of(storage)
    if found is not None:
        store = ObjectStore(found[0])
        with answering(store):
            known = names or studies_in(store)
            for name in known:
                if names or len(known) == 1:
                    fetch_study(store, found[1], name)
                else:  # to be named in the message that asks for one
                    fetch_files(store, found[1], name, (MANIFEST,))


def fetch_status(request: SearchRequest) -> None:
    """For `--status` and other commands that read a study: its small files, where its storage is remote."""
    found = storage_of(request.storage)
    if found is not None:
        store = ObjectStore(found[0])
        with answering(store):
            fetch_files(store, found[1], request.study, STATUS_FILES)
