"""Around a job: the epoch in the storage, shared teachers, and a storage that does not answer."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meanflow_tune.checksums import checksum_file, write_checked
from meanflow_tune.records import NO_ANSWER, Job, Outcome, Report, SilentReporter
from meanflow_tune.remote import remote_jobs
from meanflow_tune.remote.object_store import ObjectStore
from meanflow_tune.remote.remote_jobs import (
    Patience,
    RemoteJobs,
    SendingReporter,
    SharedObjects,
    StorageSilent,
)
from meanflow_tune.remote.trial_copy import TrialCopy
from meanflow_tune.search.errors import LeaseLost

TEACHER = "teachers/abc/teacher.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(f"file://{tmp_path / 'store'}")


class Listener(SilentReporter):
    """Stops the search after `patience` ticks."""

    def __init__(self, patience: int) -> None:
        object.__setattr__(self, "ticks", [])
        object.__setattr__(self, "patience", patience)
        object.__setattr__(self, "faults", [])

    def tick(self, progress: dict[str, Any]) -> None:
        vars(self)["ticks"].append(progress["phase"])

    def fault(self, cause: str, action: str) -> None:
        vars(self)["faults"].append(f"{cause}; {action}")

    def stopping(self) -> bool:
        return len(vars(self)["ticks"]) >= vars(self)["patience"]


def shared(store: ObjectStore, root: Path) -> SharedObjects:
    return SharedObjects(store, root, lambda call: call())


def made(root: Path, text: str) -> Path:
    path = root / TEACHER
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checked(path, text)
    return path


def test_a_teacher_reaches_other_hosts_and_the_first_wins(
    store: ObjectStore, tmp_path: Path
) -> None:
    one, other, third = (tmp_path / name for name in ("one", "other", "third"))
    first = made(one, "first")
    shared(store, one).send(first)
    late = made(other, "late")
    shared(store, other).send(late)
    assert late.read_text() == "first"
    shared(store, third).fetch(third / TEACHER)
    assert (third / TEACHER).read_text() == "first"
    for root in (other, third):
        expected = checksum_file(first).read_text()
        assert checksum_file(root / TEACHER).read_text() == expected
    shared(store, third).fetch(third / "teachers/none")
    assert not (third / "teachers/none").exists()


def test_two_ranks_of_a_host_fetch_a_teacher_at_once(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    shared(store, one).send(made(one, "whole"))
    pids = iter((11, 12))
    monkeypatch.setattr(remote_jobs, "os", SimpleNamespace(getpid=lambda: next(pids)))
    fetch, nested = ObjectStore.fetch, []

    def overtaken(self: ObjectStore, name: str, path: Path) -> None:
        fetch(self, name, path)
        if not nested:
            nested.append(path)
            shared(store, other)._fetch(other / TEACHER)

    monkeypatch.setattr(ObjectStore, "fetch", overtaken)
    shared(store, other).fetch(other / TEACHER)
    assert (other / TEACHER).read_text() == "whole"
    names = sorted(path.name for path in (other / TEACHER).parent.iterdir())
    assert names == ["teacher.safetensors", "teacher.safetensors.sha256"]


def test_a_damaged_teacher_in_the_storage_is_made_again(store: ObjectStore, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    shared(store, one).send(made(one, "whole"))
    store.write(TEACHER, b"damaged")
    shared(store, other).fetch(other / TEACHER)
    assert not (other / TEACHER).exists()
    shared(store, other).send(made(other, "again"))
    assert store.read(TEACHER) == b"again"


def test_a_job_of_an_earlier_driver_writes_nothing(store: ObjectStore, tmp_path: Path) -> None:
    jobs = RemoteJobs(store.url, str(tmp_path), str(tmp_path / "teachers"), False)
    folder = tmp_path / "study" / "trials" / "00001"
    store.write("study/lease.json", json.dumps({"epoch": 3}).encode())
    jobs.check_epoch(store, folder, 3)
    with pytest.raises(LeaseLost, match="has epoch 3, but this job has 2"):
        jobs.check_epoch(store, folder, 2)
    for damage in (b"", b"{", b"[]"):
        store.write("study/lease.json", damage)
        with pytest.raises(LeaseLost, match="epoch unknown"):
            jobs.check_epoch(store, folder, 3)


def test_a_storage_that_is_away_is_waited_for(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_jobs, "PAUSE_SECONDS", 0.0)
    answers = iter([OSError("away"), OSError("away"), None])

    def call() -> str:
        if (error := next(answers)) is not None:
            raise error
        return "sent"

    listener = Listener(5)
    assert Patience(store, listener)(call) == "sent"
    assert vars(listener)["ticks"] == [NO_ANSWER, NO_ANSWER]
    (line,) = vars(listener)["faults"]
    assert line == f"{store.url} does not answer (away); the trial waits for it, and loses nothing"

    def away() -> None:
        raise OSError("away")

    with pytest.raises(StorageSilent, match="does not answer"):
        Patience(store, Listener(3))(away)


def test_what_is_reported_has_been_sent(store: ObjectStore) -> None:
    order: list[str] = []

    class Inner(SilentReporter):
        def report(self, report: Report) -> bool:
            order.append("reported")
            return False

    reporter = SendingReporter(Inner(), lambda: order.append("sent"))
    assert not reporter.report(Report(images=1, metrics={}, cost={}, time=0.0))
    assert order == ["sent", "reported"]


@pytest.mark.parametrize("on_drivers_host", [True, False])
def test_no_rank_clears_a_folder_that_rank_0_has_not_sent(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_drivers_host: bool
) -> None:
    root = tmp_path / "host"
    folder = root / "study" / "trials" / "00001"
    jobs = RemoteJobs(store.url, str(root), str(root / "teachers"), False)
    job = Job("study", 1, {}, str(folder), 0, 1)
    if on_drivers_host:
        (root / "study").mkdir(parents=True)
        (root / "study" / "lease.json").write_text("{}")

    def train(job: Job, rank: int, *_: object, **__: object) -> Outcome:
        if rank == 0:
            for name in ("config.json", "checkpoints/1.pt"):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}")
            # The other rank of this host ends first.
            thread = threading.Thread(target=jobs, args=(job, 1, 2, "cpu", SilentReporter()))
            thread.start()
            thread.join(30)
            assert (folder / "checkpoints/1.pt").exists()
        return Outcome("completed")

    monkeypatch.setattr(remote_jobs, "run_job", train)
    monkeypatch.setattr(TrialCopy, "fetch", lambda copy: None)
    assert jobs(job, 0, 2, "cpu", SilentReporter()) == Outcome("completed")
    assert store.read("study/trials/00001/checkpoints/1.pt") == b"{}"
    assert not (folder / "checkpoints").exists()
    assert (folder / "config.json").exists() == on_drivers_host
    # On a host without rank 0.
    (folder / "checkpoints").mkdir(parents=True)
    jobs(job, 1, 2, "cpu", SilentReporter())
    assert not (folder / "checkpoints").exists()
